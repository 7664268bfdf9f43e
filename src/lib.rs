//! pamrelay: a submission relay for Unix sites, in the order a message travels.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod log;
pub mod run;
pub mod smtp;

pub mod auth;
pub mod delivery;
pub mod front;
pub mod handoff;
pub mod keys;
pub mod message;
pub mod queue;
pub mod sandbox;
pub mod session;
