//! Under way.
use std::net::IpAddr; use std::rc::Rc; use reactor::{World, Address}; use reactor::sim::Random; use ringd::node::Node; use crate::member::Shared;
/// .
pub fn address(ip: IpAddr) -> Address { Address::Tcp((ip, 2379).into()) }
/// .
pub fn serve(_w:&World,_n:&Node,_s:&grpc::Shutdown){}
/// .
pub async fn run_clients(_w: World,_s:Rc<Shared>,_r:Random,_a:Address){}
