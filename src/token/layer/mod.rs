//! The layer that attaches the token.

mod authorize;

pub use authorize::MAX_PERMIT_HOLD;

#[cfg(test)]
mod tests;
