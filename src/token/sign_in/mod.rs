//! One token request, from credential to token or to a reason why not.

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
mod grammar;
#[cfg(test)]
mod tests;
