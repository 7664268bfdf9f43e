//! What MAIL and RCPT say of an argument they cannot take: the same rules, each with its own words.

use crate::smtp::address::AddressError;
use crate::smtp::command::ArgumentError;
use crate::smtp::params::ParamError;
use crate::smtp::reply::Refusal;

/// The replies of one command.
pub(super) struct Words {
    unknown_parameter: Refusal,
    no_domain: Refusal,
    syntax: Refusal,
}

pub(super) const OF_MAIL: Words =
    Words { unknown_parameter: Refusal::MAIL_PARAMETER, no_domain: Refusal::SENDER_NO_DOMAIN, syntax: Refusal::BAD_SENDER };
pub(super) const OF_RCPT: Words =
    Words { unknown_parameter: Refusal::RCPT_PARAMETER, no_domain: Refusal::NO_DOMAIN, syntax: Refusal::BAD_ADDRESS };

impl Words {
    pub(super) fn refuse(self, error: ArgumentError) -> Refusal {
        match error {
            ArgumentError::Param(ParamError::Unknown) => self.unknown_parameter,
            ArgumentError::Param(ParamError::Repeated | ParamError::Value) => Refusal::BAD_PARAMETER,
            ArgumentError::Address(AddressError::NeedsUtf8) => Refusal::NEEDS_SMTPUTF8,
            ArgumentError::Address(AddressError::NoDomain) => self.no_domain,
            ArgumentError::Address(
                AddressError::Brackets
                | AddressError::Control
                | AddressError::Domain
                | AddressError::LocalPart
                | AddressError::LongDomain
                | AddressError::LongMailbox
                | AddressError::Number
                | AddressError::SourceRoute,
            ) => self.syntax,
        }
    }
}
