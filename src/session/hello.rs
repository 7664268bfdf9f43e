//! The answer to EHLO: what this relay can do in the present state (RFC 5321 §4.1.1.1).

use super::Site;
use crate::smtp::reply::Reply;

/// What the state adds to the extensions that are always there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Offer {
    StartTls,
    Auth,
    Nothing,
}

pub(super) fn ehlo(site: &Site, offer: Offer) -> Reply {
    let offered: &[&str] = match offer {
        Offer::StartTls => &["STARTTLS"],
        Offer::Auth => &["AUTH PLAIN LOGIN"],
        Offer::Nothing => &[],
    };
    Reply::ehlo(&site.host, site.message_size, offered)
}
