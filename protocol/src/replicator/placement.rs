//! Where chunks should be for healing: the ring on which the newly dead still have their place.
