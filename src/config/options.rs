//! Every key of the configuration, in one table: what it wants, what it is without you, and what it is for.
//!
//! The reader takes defaults and bounds from here, and so do the manual page and the example file: a key that is not in the table does not exist.

use std::time::Duration;

use super::value::Bytes;
use crate::handoff::bounds::MOST_RECIPIENTS;

/// One key.
pub struct Row {
    /// Its full name. `[]` follows a key whose value is a list of maps.
    pub key: &'static str,
    pub wants: Wants,
    pub fallback: Fallback,
    /// Prose for the manual page and the example: paragraphs separated by an empty line, `code` between back quotes.
    pub about: &'static str,
}

/// What a value must be.
pub enum Wants {
    /// Keys of its own.
    Section,
    /// A list of maps; the text is the list as the example file shows it.
    Sections(&'static str),
    Duration {
        least: Duration,
        most: Duration,
    },
    Size {
        least: Bytes,
        most: Bytes,
    },
    Count {
        least: u64,
        most: u64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// A domain name.
    Domain,
    /// A domain name or an IP address.
    Host,
    /// An IP address with a port.
    Socket,
    /// An absolute path.
    Path,
    /// The name of a file in `tls.directory`.
    File,
    /// The name of a PAM service.
    Service,
    /// A user name for another server.
    Login,
    /// A list of `Domain` patterns.
    Patterns,
    /// A list of group names.
    Groups,
    /// The name of an account.
    Account,
    /// A mail address.
    Mailbox,
    /// A short name of our own.
    Label,
    /// A list of rules for names.
    NameRules,
    /// A list of `Socket`.
    Sockets,
}

/// What holds when the key is not there.
pub enum Fallback {
    /// This, as if it had been written.
    Value(&'static str),
    /// There is no default: the key must be there, with something like this.
    Required(&'static str),
    /// In words, and what one could write.
    Otherwise { words: &'static str, example: &'static str },
}

impl Row {
    /// The key without the section it is in.
    pub fn name(&self) -> &'static str {
        self.key.rsplit_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The section it is in; empty for the top.
    pub fn section(&self) -> &'static str {
        self.key.rsplit_once('.').map_or("", |(section, _)| section)
    }
}

/// The row of a key. Our own code asks, with names that are in the table.
pub(super) fn row(key: &str) -> &'static Row {
    ROWS.iter().find(|row| row.key == key).unwrap_or_else(|| unreachable!("no option {key}"))
}

/// The keys of one section.
pub fn rows_of(section: &str) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.section() == section)
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

use Fallback::{Otherwise, Required, Value};

/// In the order of the manual page.
pub const ROWS: &[Row] = &[
    Row {
        key: "hostname",
        wants: Wants::Domain,
        fallback: Otherwise { words: "the host's own fully qualified name", example: "mail.example.org" },
        about: "The name this relay goes by: in its greeting, in `Received:` fields, when it talks to other servers, in delivery reports. Mail clients \
                must find the same name in the certificate.",
    },
    Row {
        key: "listen",
        wants: Wants::Sections(
            "  - { address: \"0.0.0.0:587\", tls: starttls }\n  - { address: \"[::]:587\", tls: starttls }\n  - { address: \"0.0.0.0:465\", tls: implicit }\n  - { address: \"[::]:465\", tls: implicit }\n",
        ),
        fallback: Required("a list such as - { address: \"0.0.0.0:587\", tls: starttls }"),
        about: "Where mail clients connect. A change ends all sessions. Every listener has TLS; there is no way to write one without it, and nobody can log in before TLS is up.",
    },
    Row {
        key: "listen[].address",
        wants: Wants::Socket,
        fallback: Required("0.0.0.0:587"),
        about: "An IP address and a port. An IPv6 address stands between brackets and takes IPv6 alone, so that `0.0.0.0` and `[::]` can stand side by side. \
                Port 0 takes any free port, for trials.",
    },
    Row {
        key: "listen[].tls",
        wants: Wants::Word(&["starttls", "implicit"]),
        fallback: Required("starttls"),
        about: "`starttls`: the client begins in the clear and must send STARTTLS before anything else (usual on port 587). `implicit`: TLS from the first \
                octet (usual on port 465).",
    },
    Row {
        key: "listen[].name",
        wants: Wants::Label,
        fallback: Otherwise { words: "the address", example: "submission" },
        about: "What the log calls this listener.",
    },
    Row {
        key: "listen[].service",
        wants: Wants::Service,
        fallback: Otherwise { words: "`auth.service`", example: "smtp-guests" },
        about: "The PAM service for people who come to this listener: a file in /etc/pam.d of its own. The helper chooses it by the listener, from its own list.",
    },
    Row {
        key: "tls",
        wants: Wants::Section,
        fallback: Value(""),
        about: "Certificates and keys. Only the process `keys` reads them. They are files in one directory, and directory and files must be readable by \
                nobody else: `pamrelay check` says what is wrong and the command that mends it.",
    },
    Row {
        key: "tls.directory",
        wants: Wants::Path,
        fallback: Value("/etc/pamrelay/certs"),
        about: "The directory of certificates, keys and secrets: owner root or pamrelay-keys, mode 0700, the files in it 0600.",
    },
    Row {
        key: "tls.certificate",
        wants: Wants::File,
        fallback: Value("server.crt"),
        about: "The certificate shown to mail clients, PEM, with its chain: the server's own first, then the intermediate ones.",
    },
    Row {
        key: "tls.key",
        wants: Wants::File,
        fallback: Value("server.key"),
        about: "The private key of `certificate`, PEM, without a pass phrase.",
    },
    Row {
        key: "tls.client_certificate",
        wants: Wants::File,
        fallback: Otherwise { words: "none is shown", example: "client.crt" },
        about: "A certificate to show to smart hosts that ask for one, PEM with its chain.",
    },
    Row {
        key: "tls.client_key",
        wants: Wants::File,
        fallback: Otherwise { words: "none", example: "client.key" },
        about: "The private key of `client_certificate`.",
    },
    Row {
        key: "auth",
        wants: Wants::Section,
        fallback: Value(""),
        about: "Who may send. PAM decides about the password; these rules can only refuse more.",
    },
    Row {
        key: "auth.service",
        wants: Wants::Service,
        fallback: Value("smtp"),
        about: "The PAM service: the file of this name in /etc/pam.d. Without that file pamrelay does not start, because PAM would then take the service \
                `other`, which on some systems lets everybody in.",
    },
    Row {
        key: "auth.names",
        wants: Wants::NameRules,
        fallback: Otherwise { words: "names reach PAM as they were typed", example: "[strip-realm=example.org, case=lower]" },
        about: "How names are changed before PAM gets them, one rule after the other. `strip-realm=example.org` makes `ann` of `ann@example.org`, `strip-domain=LAB` \
                makes it of `LAB\\ann`; `*` stands for any realm or domain, and neither looks at case. `add-realm=lab.example` and `add-domain=LAB` complete a bare name. `case=lower` \
                makes capital letters small; without it PAM sees them as they were typed.\n\nWho somebody is in the end is what PAM says after the login, whatever was typed.",
    },
    Row {
        key: "auth.guest_service",
        wants: Wants::Service,
        fallback: Otherwise { words: "everybody needs an account on this host", example: "smtp-guests" },
        about: "The PAM service for people without an account on this host: whoever is not known to the name service is asked there, on every listener. It never answers for anybody \
                with an account, so a guest cannot take the name of one. See pamrelay(8), `guest`.",
    },
    Row {
        key: "auth.guest_account",
        wants: Wants::Account,
        fallback: Otherwise { words: "there are no guests", example: "mailguest" },
        about: "The account whose uid and groups guests have: one that is made for this, without a password. `min_uid` and `groups` hold for it too.",
    },
    Row {
        key: "auth.min_uid",
        wants: Wants::Count { least: 1, most: 4_294_967_294 },
        fallback: Value("1000"),
        about: "Accounts with a smaller number may not send. root never may.",
    },
    Row {
        key: "auth.groups",
        wants: Wants::Groups,
        fallback: Otherwise { words: "everybody may", example: "[staff, mailusers]" },
        about: "Only members of one of these groups may send.",
    },
    Row {
        key: "auth.deadline",
        wants: Wants::Duration { least: SECOND, most: Duration::from_secs(120) },
        fallback: Value("10s"),
        about: "How long one question to PAM may take. A module that hangs longer is killed and the client hears 454: try again later.",
    },
    Row {
        key: "auth.workers",
        wants: Wants::Count { least: 1, most: 64 },
        fallback: Value("8"),
        about: "How many questions to PAM are worked on at once. Others wait. Some more are allowed while these hang, and a quarter more where some are of people who logged in from the same network \
                lately and some of others: the former go first. Only as many compute at once as there are processors, and one more.",
    },
    Row {
        key: "auth.account_failures",
        wants: Wants::Count { least: 0, most: 10 },
        fallback: Value("4"),
        about: "How many wrong passwords for one account reach PAM within `account_window`, where a back end may lock accounts or where this option or `account_window` is set; 0 for no limit of this kind. \
                Beyond the limit PAM is not asked and the client hears 454: try again later. Set it below what locks an account in the back end, such as the threshold of an Active Directory. With pam_faillock in a \
                service it is lowered to less than `deny` automatically, unless it is 0.\n\n\
                A quarter of the limit (at least one try) is reserved for networks from which the account logged in during the last seven days, so that password guessing elsewhere does not lock the owner out. \
                Such a network has these tries and no more: once all are used, it waits like everybody. Repeating the same wrong password counts once; when half of the limit is used, it is refused without asking PAM.\n\n\
                Where nothing locks accounts (see `lockout`) and neither option is set, there are pauses instead: 3 wrong passwords from a network are free, or 5 where the account logged in during the last seven days. Then \
                each doubles the wait, 10 s at first and 5 minutes at most; 10 from one network within `account_window` are the limit. New networks together have 3 free tries and the same pauses.",
    },
    Row {
        key: "auth.account_window",
        wants: Wants::Duration { least: SECOND, most: Duration::from_secs(7 * 86_400) },
        fallback: Value("30m"),
        about: "How long a wrong password counts against its account. As long as in the back end, or longer. Where it is set, `account_failures` holds exactly.",
    },
    Row {
        key: "auth.lockout",
        wants: Wants::Word(&["detect", "none"]),
        fallback: Value("detect"),
        about: "Whether back ends may lock accounts after wrong passwords. `detect`: yes if a module of a PAM service asks a directory (pam_ldap, pam_sss, pam_winbind, pam_krb5) or is not known to pamrelay. `none`: no, whatever \
                the modules; an administrator knows that of a directory without such a policy. pam_faillock is detected in either case, and `account_failures` holds where it is set.",
    },
    Row {
        key: "auth.network_failures_per_minute",
        wants: Wants::Count { least: 0, most: 1_000_000 },
        fallback: Value("60"),
        about: "Wrong passwords from one network (an IPv4 address, an IPv6 /64); half of them may come at once. The site around it (an IPv4 /24, an IPv6 /48) may have four times as many, and at most half of \
                `failures_per_second`. More where many people share an address, such as a webmail host; 0 for no limit of these two kinds. Accounts that logged in from the network during the last seven days are not \
                subject to it.",
    },
    Row {
        key: "auth.failures_per_second",
        wants: Wants::Count { least: 1, most: 100_000 },
        fallback: Value("20"),
        about: "Wrong passwords in all, on average; ten seconds' worth may come at once. A network may use at most a quarter of them.",
    },
    Row {
        key: "auth.low_ports",
        wants: Wants::Word(&["no", "yes"]),
        fallback: Value("no"),
        about: "`yes` lets PAM modules use ports below 1024, which NIS asks of those who read its shadow maps.",
    },
    Row {
        key: "auth.failure_floor",
        wants: Wants::Duration { least: Duration::ZERO, most: MINUTE },
        fallback: Value("1s"),
        about: "A refusal is answered no sooner than this after the question, and a little chance on top, so that its time tells nothing.",
    },
    Row { key: "limits", wants: Wants::Section, fallback: Value(""), about: "What one client, or all of them, may use up." },
    Row {
        key: "limits.message_size",
        wants: Wants::Size { least: Bytes(64 * KIB), most: Bytes(2 * GIB) },
        fallback: Value("35MiB"),
        about: "The largest message, as announced by SIZE. The default has room for an attachment of 25 MiB, which base64 makes larger by a third.",
    },
    Row {
        key: "limits.recipients",
        wants: Wants::Count { least: 100, most: MOST_RECIPIENTS as u64 },
        fallback: Value("1000"),
        about: "Recipients of one message; more are answered 452. At least 100 (RFC 5321 §4.5.3.1.8).",
    },
    Row {
        key: "limits.sessions",
        wants: Wants::Count { least: 1, most: 200_000 },
        fallback: Value("12000"),
        about: "Connections at once. Each needs a file descriptor.",
    },
    Row {
        key: "limits.sessions_per_address",
        wants: Wants::Count { least: 1, most: 200_000 },
        fallback: Value("100"),
        about: "Connections at once from one IPv4 address or one IPv6 /64 network. As many new ones are taken from there in a second, after \
                a burst of five seconds' worth, and four times as many from one IPv4 /24 or IPv6 /48; further ones are closed before TLS begins.",
    },
    Row {
        key: "limits.sessions_per_site",
        wants: Wants::Count { least: 1, most: 200_000 },
        fallback: Otherwise { words: "a quarter of `sessions`, and at least `sessions_per_address`", example: "3000" },
        about: "Connections at once from one IPv4 /24 or one IPv6 /48 network, which is what one customer of a provider can have.",
    },
    Row {
        key: "limits.bad_commands",
        wants: Wants::Count { least: 1, most: 1000 },
        fallback: Value("10"),
        about: "Commands not understood or out of order, and refused logins, before the session is closed with 421.",
    },
    Row {
        key: "limits.command_timeout",
        wants: Wants::Duration { least: SECOND, most: HOUR },
        fallback: Value("5m"),
        about: "How long a client may be silent between commands (RFC 5321 §4.5.3.2.7 asks for 5 minutes).",
    },
    Row {
        key: "limits.data_timeout",
        wants: Wants::Duration { least: SECOND, most: Duration::from_secs(600) },
        fallback: Value("10m"),
        about: "How long a client may be silent while it sends a message. A message above 64 KiB may pause for 30 seconds at most while \
                more than half of the connections for such messages are in use.",
    },
    Row {
        key: "limits.session_timeout",
        wants: Wants::Duration { least: SECOND, most: Duration::from_secs(7 * 86_400) },
        fallback: Value("1h"),
        about: "How long one connection may last in all. It is also how long a login is good for.",
    },
    Row {
        key: "limits.login_timeout",
        wants: Wants::Duration { least: SECOND, most: HOUR },
        fallback: Value("2m"),
        about: "How long a client may be connected before it has logged in. It is 15 seconds at most for those who come while more than three \
                quarters of `sessions` are in use.",
    },
    Row {
        key: "spool",
        wants: Wants::Path,
        fallback: Value("/var/spool/pamrelay"),
        about: "The queue: owner pamrelay-queue, mode 0700, on a local disk. Another place must be allowed in the unit of the queue: `pamrelay check` says how.",
    },
    Row {
        key: "runtime_dir",
        wants: Wants::Path,
        fallback: Value("/run/pamrelay"),
        about: "Sockets, tickets and the accepted copy of the configuration. The systemd units expect the default.",
    },
    Row {
        key: "sandbox",
        wants: Wants::Word(&["best-effort", "required"]),
        fallback: Value("best-effort"),
        about: "`best-effort`: where a part of the sandbox cannot be had (an old kernel, a container, a limit on locked memory), say so in the log and go on. \
                `required`: refuse to start instead.",
    },
    Row {
        key: "log",
        wants: Wants::Word(&["error", "warn", "info", "debug"]),
        fallback: Value("info"),
        about: "How much is logged. `info` is one line for each event; passwords and message bodies are logged at no level.",
    },
    Row {
        key: "routes",
        wants: Wants::Sections(
            "  - domains: [archive.example.org]\n    maildir: /var/mail/archive\n  - domains: [\"*\"]\n    smart_hosts:\n      - { host: relay.example.net, port: 587, user: example, secret: relay.secret }\n      - { host: backup.example.net }\n",
        ),
        fallback: Value("- { domains: [\"*\"], mx: direct }"),
        about: "Where mail goes, by the recipient's domain. The first route that fits is taken. Each has `domains` and exactly one of `smart_hosts`, `mx`, \
                `maildir`. A recipient that no route fits is refused.",
    },
    Row {
        key: "routes[].domains",
        wants: Wants::Patterns,
        fallback: Required("[\"*\"]"),
        about: "`example.org` is that domain alone, `.example.org` everything below it, `\"*\"` (with quotes) every domain.",
    },
    Row {
        key: "routes[].smart_hosts",
        wants: Wants::Sections(""),
        fallback: Otherwise { words: "another target", example: "" },
        about: "Servers that take the mail, in order: the second is asked when the first cannot be reached or does not let us in. One that let us in and then asks to try later is \
                asked again later.",
    },
    Row {
        key: "routes[].smart_hosts[].host",
        wants: Wants::Host,
        fallback: Required("relay.example.net"),
        about: "Its name, which its certificate must carry, or its address. No MX records are looked up.",
    },
    Row {
        key: "routes[].smart_hosts[].port",
        wants: Wants::Count { least: 1, most: 65_535 },
        fallback: Otherwise { words: "587 with `user`, 25 without", example: "587" },
        about: "The port.",
    },
    Row {
        key: "routes[].smart_hosts[].tls",
        wants: Wants::Word(&["none", "opportunistic", "required"]),
        fallback: Value("required"),
        about: "`required`: STARTTLS, and a certificate that proves the name; otherwise the mail waits. `opportunistic`: TLS where it is offered, without proof; in the clear where it \
                cannot be begun, unless a login is configured. `none`: \
                in the clear.",
    },
    Row {
        key: "routes[].smart_hosts[].user",
        wants: Wants::Login,
        fallback: Otherwise { words: "no login", example: "example" },
        about: "The name to log in with (AUTH PLAIN or LOGIN). Needs `secret`, and `tls: required`: a password is never sent to a stranger.",
    },
    Row {
        key: "routes[].smart_hosts[].secret",
        wants: Wants::File,
        fallback: Otherwise { words: "no login", example: "relay.secret" },
        about: "The file with the password, in `tls.directory` under the same law; its first line counts.",
    },
    Row {
        key: "routes[].mx",
        wants: Wants::Word(&["direct"]),
        fallback: Otherwise { words: "another target", example: "direct" },
        about: "`direct`: to the servers that the recipient's domain names in DNS (RFC 5321 §5).",
    },
    Row {
        key: "routes[].maildir",
        wants: Wants::Path,
        fallback: Otherwise { words: "another target", example: "/var/mail/archive" },
        about: "Into this maildir, for trials and archives. It must belong to pamrelay-queue; one that is not there is made. Under systemd its place must be \
                allowed in the unit of the queue: `pamrelay check` says how.",
    },
    Row { key: "delivery", wants: Wants::Section, fallback: Value(""), about: "How delivery goes about it." },
    Row {
        key: "delivery.first_retry",
        wants: Wants::Duration { least: SECOND, most: DAY },
        fallback: Value("5m"),
        about: "The pause after the first failed attempt. Each further pause is longer.",
    },
    Row {
        key: "delivery.longest_retry",
        wants: Wants::Duration { least: SECOND, most: DAY },
        fallback: Value("4h"),
        about: "Pauses do not grow beyond this.",
    },
    Row {
        key: "delivery.give_up",
        wants: Wants::Duration { least: SECOND, most: Duration::from_secs(30 * 86_400) },
        fallback: Value("5d"),
        about: "After so long in the queue a message goes back to its sender.",
    },
    Row {
        key: "delivery.connections",
        wants: Wants::Count { least: 1, most: 512 },
        fallback: Value("16"),
        about: "Connections at once to one destination. There are 512 for everybody, and 64 more in reserve for destinations and users that have few.",
    },
    Row {
        key: "delivery.resolver",
        wants: Wants::Sockets,
        fallback: Otherwise { words: "those of /etc/resolv.conf", example: "[\"127.0.0.1:53\"]" },
        about: "DNS servers to ask, in order.",
    },
    Row {
        key: "delivery.trust",
        wants: Wants::Path,
        fallback: Otherwise { words: "the system's store", example: "/etc/pamrelay/smart-host-ca.pem" },
        about: "A file of certificates, PEM, that vouch for smart hosts, in place of the system's store.",
    },
    Row {
        key: "delivery.postmaster",
        wants: Wants::Mailbox,
        fallback: Otherwise { words: "nobody", example: "postmaster@example.org" },
        about: "Who receives delivery reports that could not be delivered to the sender of a message. With or without this address, each such report is logged with `event=dropped` and `level=error`, and counted: see \
                `pamrelay queue status`. A report that cannot be delivered to this address either is lost.",
    },
    Row {
        key: "delivery.private_networks",
        wants: Wants::Word(&["refuse", "allow"]),
        fallback: Value("refuse"),
        about: "Whether `mx: direct` may deliver to this host and to private networks. The owner of a domain chooses its MX records, so strangers could aim mail at them. `refuse`: loopback, link-local and private \
                addresses (such as 10.0.0.0/8, 100.64.0.0/10 and fc00::/7, in every form that IPv6 has for them) and the addresses of this host are no targets; mail that could go nowhere else is returned \
                at once, with status 5.4.6 if the target is this host. `allow`: they are, but never the relay's own listeners. Smart hosts are your choice: any address is allowed for them, except the relay's own \
                listeners. Mail for a smart host that is the relay itself waits in the queue, and each attempt is logged with `event=smart_host_is_us` and `level=error`.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_there_once_and_its_section_before_it() {
        for (i, row) in ROWS.iter().enumerate() {
            assert!(ROWS.iter().take(i).all(|earlier| earlier.key != row.key), "{} twice", row.key);
            let section = row.section().trim_end_matches("[]");
            assert!(section.is_empty() || ROWS.iter().take(i).any(|earlier| earlier.key == section), "{} before its section", row.key);
        }
    }
}
