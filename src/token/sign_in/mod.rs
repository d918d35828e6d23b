//! One token request, from the credential to a token or an error.

mod answer;
mod entra;
mod identity;
mod issued;
mod response;
mod service;
mod unusable;
mod wait;

pub(super) use issued::Issued;
pub(super) use service::SignIn;

#[cfg(test)]
mod tests;
