//! What the CA will see, asked before the CA is.
