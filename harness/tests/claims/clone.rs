//! clone(2) and fork(2): the book's 1.2 and 1.3.
