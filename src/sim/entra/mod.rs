//! Sign-in: Entra's token endpoint, and the two local forms of managed identity.

pub mod assertion;
mod code;
mod discovery;
mod endpoint;
mod form;
mod managed;
mod refusal;
mod token;
mod token_service;

pub use assertion::Certificate;
pub use code::AadstsCode;
pub(super) use endpoint::Endpoint;
pub(super) use token::Claims;
pub(super) use token_service::TokenService;
