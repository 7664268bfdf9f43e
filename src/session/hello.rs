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
    let offered = match offer {
        Offer::StartTls => "\nSTARTTLS",
        Offer::Auth => "\nAUTH PLAIN LOGIN",
        Offer::Nothing => "",
    };
    let text =
        format!("{}\nPIPELINING\nSIZE {}\n8BITMIME\nENHANCEDSTATUSCODES\nDSN\nSMTPUTF8{offered}\nHELP", site.host, site.message_size);
    Reply { code: 250, status: None, text: text.into() }
}

pub(super) fn helo(site: &Site) -> Reply {
    Reply { code: 250, status: None, text: site.host.clone().into() }
}
