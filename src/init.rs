//! Initialisers.

/// How a parameter starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    Zeros,
}
