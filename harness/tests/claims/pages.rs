//! Every console block of every page is run, and compared.
