pub(crate) mod client;
pub mod job;
pub(crate) mod outages;
pub(crate) mod parcel;
pub mod resolver;
pub mod route;
#[cfg(test)]
pub(crate) mod samples;
