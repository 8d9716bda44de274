//! At rest the operator writes nothing but its lease.

use std::time::Duration;

use la_tests::cluster::{ApiServer, eventually};
use la_tests::proof::rounds;

use super::budgets::budget;
use super::scene::{LIMIT, Scene, token};

const TOKENS: usize = 100;

/// Seconds to stay at rest: 5 minutes in a full proof.
const REST_SECONDS: usize = 300;

#[test]
fn at_rest_with_100_tokens_nothing_but_the_lease_is_written() {
    let api = ApiServer::start().unwrap();
    let scene = Scene::new(&api).unwrap();
    let (namespace, kubelet) = scene.served("quiet", "http://127.0.0.1:9");
    let operator = scene.operator("quiet", &[]).unwrap();
    let limits = ", limits: {budgets: [{name: hour, unit: Requests, limit: '9', window: {rolling: 1h}}]}";
    let yaml: String = (0..TOKENS).map(|n| token(&format!("agent-{n}"), &namespace, limits)).collect();
    scene.apply(&namespace, &yaml);
    scene.apply(&namespace, &budget("all", &namespace, ""));
    for n in 0..TOKENS {
        let name = format!("agent-{n}");
        scene.until((&namespace, "routertokens", &name), "Ready", ("True", "Issued"));
    }
    scene.until((&namespace, "routerproxies", "gateway"), "Programmed", ("True", "Programmed"));
    scene.until((&namespace, "routerbudgets", "all"), "Ready", ("True", "Covering"));
    let live = || {
        let object = scene.object(&namespace, "routerproxies", "gateway");
        Ok((object["status"]["tokens"]["live"] == TOKENS).then_some(()))
    };
    eventually("the pod to report every token", LIMIT, live).unwrap();
    std::thread::sleep(Duration::from_secs(4));

    let mark = api.audit_mark();
    let rest = Duration::from_secs(u64::try_from(rounds(REST_SECONDS)).unwrap());
    std::thread::sleep(rest);
    let writes = api.operator_writes_since(mark).unwrap();
    let others: Vec<_> = writes.iter().filter(|write| write.resource != "leases").collect();
    assert!(others.is_empty(), "in {rest:?} at rest: {others:?}\n{}", operator.process.log());
    assert!(!writes.is_empty(), "the audit log shows no renewal of the lease");
    println!("{} writes of the lease in {rest:?}", writes.len());
    drop(kubelet);
}
