//! Who sends a chunk to an owner that lacks it, when, and in which order.
