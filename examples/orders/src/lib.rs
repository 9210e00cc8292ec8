//! A shop on Weft: four functions that take an order, charge for it, tell the customer and count.
//!
//! It is three things: a program that a user runs (`orders`), the worker inside `weft demo`, and an oracle: a file of
//! orders with known trouble in it ([`dataset`]), the end state that must follow ([`model`]), and a judge that compares
//! that with what is there ([`judge`]).

pub mod dataset;
pub mod events;
pub mod judge;
pub mod model;
mod tables;

pub use tables::prepare;
