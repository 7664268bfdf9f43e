//! Listeners and smart hosts: what may work later though it does not now, so nothing here is more than a warning.

use std::net::ToSocketAddrs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use super::{Finding, ports};
use crate::config::{Config, Host, Pattern};

/// A name server that does not answer must not keep a person waiting.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = config.hostname.to_string();
    if !name.contains('.') {
        findings.push(Finding::warning(
            format!("hostname: {name} is not a full name; other servers may refuse it, and no certificate carries it"),
            "write one into the configuration, such as hostname: mail.example.org",
        ));
    }
    findings.extend(config.listen.iter().filter_map(|listen| ports::look(listen.address)));
    findings.extend(descriptors(config));
    if !config.routes.iter().any(|route| route.domains.contains(&Pattern::Any)) {
        findings.push(Finding::warning(
            "routes: no route is for every domain; recipients that none fits are refused",
            "if that is not what you want, add a last route with domains: [\"*\"]",
        ));
    }
    findings.extend(smart_hosts(config));
    findings
}

fn descriptors(config: &Config) -> Option<Finding> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let wanted = u64::try_from(config.limits.sessions).unwrap_or(u64::MAX).saturating_add(256);
    (most < wanted).then(|| {
        Finding::warning(
            format!("limits.sessions needs {wanted} file descriptors, a process started from here may have {most}"),
            "the systemd units set LimitNOFILE; otherwise raise it with ulimit -Hn, or lower limits.sessions",
        )
    })
}

/// All names at once, each by itself.
fn smart_hosts(config: &Config) -> Vec<Finding> {
    let (tell, heard) = mpsc::channel();
    let mut names: Vec<(String, u16)> = config
        .smart_hosts()
        .filter_map(|host| match &host.host {
            Host::Name(name) => Some((name.clone(), host.port)),
            Host::Address(_) => None,
        })
        .collect();
    names.sort();
    names.dedup();
    for (name, port) in names.clone() {
        let tell = tell.clone();
        thread::spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(|addresses| addresses.count());
            let _ = tell.send((name, found.map_err(|error| error.to_string())));
        });
    }
    drop(tell);
    let mut findings = Vec::new();
    let mut asked: Vec<String> = names.into_iter().map(|(name, _)| name).collect();
    asked.dedup();
    while let Ok((name, found)) = heard.recv_timeout(PATIENCE) {
        asked.retain(|waiting| *waiting != name);
        let why = match found {
            Ok(0) => "it has no address".to_owned(),
            Ok(_) => continue,
            Err(error) => error,
        };
        findings.push(Finding::warning(format!("the smart host {name} was not found: {why}"), format!("look it up: getent ahosts {name}")));
    }
    findings.extend(asked.into_iter().map(|name| {
        Finding::warning(
            format!("nobody answered who the smart host {name} is"),
            "see whether the name servers of this host can be reached: cat /etc/resolv.conf",
        )
    }));
    findings
}
