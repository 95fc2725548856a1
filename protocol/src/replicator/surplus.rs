//! Superfluous copies: whose receipts they need, and when to ask for them.
