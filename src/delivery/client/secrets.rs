//! Where the passwords for smart hosts come from: the key process, asked for each login and forgotten after it.

use std::future::Future;
use std::pin::Pin;

use zeroize::Zeroizing;

/// Gives a smart host's password by its name.
pub trait Secrets: Send + Sync {
    fn secret<'a>(&'a self, name: &'a str) -> Asked<'a>;
}

pub type Asked<'a> = Pin<Box<dyn Future<Output = Result<Zeroizing<String>, SecretError>> + Send + 'a>>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("there is no secret of the name {0}")]
    Unknown(String),
    #[error("{0}")]
    Unavailable(String),
}

/// For a relay whose smart hosts ask for no login.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn secret<'a>(&'a self, name: &'a str) -> Asked<'a> {
        Box::pin(async move { Err(SecretError::Unknown(name.to_owned())) })
    }
}
