//! Under way.
use crate::member::Shared;
use reactor::sim::Random;
use reactor::{Address, World};
use ringd::node::Node;
use std::net::IpAddr;
use std::rc::Rc;
/// .
pub fn address(ip: IpAddr) -> Address {
    Address::Tcp((ip, 2379).into())
}
/// .
pub fn serve(_w: &World, _n: &Node, _s: &grpc::Shutdown) {}
/// .
pub async fn run_clients(_w: World, _s: Rc<Shared>, _r: Random, _a: Address) {}
