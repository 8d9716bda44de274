//! A cluster, of which the URL names a node that does not have the keys.

use std::net::TcpListener;
use std::time::Duration;

use la_core::amount::Unit;

use super::*;
use crate::ledger::conformance::{NOON_MS, Party, covering, one, spent};
use crate::ledger::{Demand, ReserveError};

fn node() -> (RedisServer, String) {
    let bus = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    (RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]).unwrap(), bus)
}

#[tokio::test]
async fn keys_of_one_proxy_are_found_where_a_cluster_has_them() {
    let [(first, _), (second, bus)] = [node(), node()];
    first.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]).unwrap();
    second.command(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]).unwrap();
    let port = second.address().port().to_string();
    assert_eq!(first.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).unwrap(), "+OK\r\n");
    let agreed = async {
        let agrees =
            |node: &RedisServer| node.command(&["CLUSTER", "INFO"]).unwrap().contains("cluster_state:ok");
        while !(agrees(&first) && agrees(&second)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), agreed).await.unwrap();
    let token = Party::token("a").hard(Unit::Requests, 2, "lifetime");
    let pool = Party::pool("p").hard(Unit::Tokens, 100, "Day@UTC");
    let covering = covering(&[&token, &pool]);
    let demand = Demand::once(&covering, one());
    let time = Time { clock: Clock::Server, lease_ms: super::super::LEASE_MS };
    for node in [&first, &second] {
        let ledger = open(&node.url(), time, OnUnavailable::Deny, Counter::default());
        ledger.reserve(&demand, NOON_MS).await.unwrap().settle(&spent(1, 0));
        ledger.quiet().await;
    }
    let ledger = open(&first.url(), time, OnUnavailable::Deny, Counter::default());
    assert!(matches!(ledger.reserve(&demand, NOON_MS).await, Err(ReserveError::Refused(_))));
}
