//! Links combined, as root and as `reader`.
