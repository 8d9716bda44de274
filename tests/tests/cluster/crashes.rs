//! The operator killed in the middle of a mint, two of them at once, and a cluster set back: never a second
//! live token, never a lost one. These tests have API servers of their own.

use std::time::Duration;

use la_tests::cluster::{ApiServer, eventually};
use serde_json::json;

use super::scene::{LIMIT, Scene, claims, secret_path, text, token, value};

const POINTS: [&str; 3] = ["after-status-issuing", "after-secret", "before-active"];

/// The one id that lives, after everything has come to rest.
fn only_live_id(scene: Scene<'_>, namespace: &str, name: &str) -> String {
    let at = (namespace, "routertokens", name);
    scene.until(at, "Issuing", ("False", "Issued"));
    let live: Vec<_> =
        scene.texts(namespace, name).into_iter().filter(|(_, state)| state != "Revoked").collect();
    let [(id, state)] = live.as_slice() else { panic!("{name} has the live texts {live:?}") };
    assert_eq!(state, "Active");
    let minted = value(&scene.secret(namespace, name).unwrap(), "token");
    assert_eq!(text(&claims(&minted).unwrap(), "/jti"), *id, "the Secret holds another token");
    let served = || {
        let record = scene.record(namespace, namespace, name).unwrap_or_default();
        let ids = record["ids"].as_array().cloned().unwrap_or_default();
        let live: Vec<_> = ids.iter().filter(|issued| issued["revoked"] != true).collect();
        Ok((live.len() == 1 && live.iter().all(|issued| issued["id"] == id.as_str())).then_some(()))
    };
    eventually("the snapshot to hold the one id", LIMIT, served).unwrap();
    id.clone()
}

#[test]
fn operator_killed_at_any_point_of_a_mint_leaves_one_live_token() {
    let api = ApiServer::start().unwrap();
    let scene = Scene::new(&api).unwrap();
    let namespace = scene.namespace("killed");
    scene.gateway(&namespace);
    for point in POINTS {
        let mut dying = scene.operator("dying", &[("LA_FAULT", point)]).unwrap();
        scene.apply(&namespace, &token(point, &namespace, ""));
        let ended =
            dying.process.wait(LIMIT).unwrap_or_else(|e| panic!("{point}: {e}: {}", dying.process.log()));
        assert!(!ended.success(), "{point}: the operator ended well");
        let recorded = scene.texts(&namespace, point);
        assert_eq!(recorded.len(), 1, "{point}: {recorded:?}");
        let written = scene.secret(&namespace, point).map(|secret| value(&secret, "token"));
        assert_eq!(written.is_some(), point != "after-status-issuing", "{point}");
        let operator = scene.operator("next", &[]).unwrap();
        let id = only_live_id(scene, &namespace, point);
        assert_eq!(id, recorded[0].0, "{point}: a new id was made");
        if let Some(written) = written {
            let now = value(&scene.secret(&namespace, point).unwrap(), "token");
            assert_eq!(now, written, "{point}: the text is another");
        }
        stop(operator);
    }
}

#[test]
fn operator_killed_while_it_restores_leaves_one_live_token_and_revokes_the_old() {
    let api = ApiServer::start().unwrap();
    let scene = Scene::new(&api).unwrap();
    let namespace = scene.namespace("killed-restoring");
    scene.gateway(&namespace);
    for point in POINTS {
        let operator = scene.operator("first", &[]).unwrap();
        scene.apply(&namespace, &token(point, &namespace, ""));
        let old = only_live_id(scene, &namespace, point);
        stop(operator);
        scene.api.client().delete(&secret_path(&namespace, point)).unwrap();
        let mut dying = scene.operator("dying", &[("LA_FAULT", point)]).unwrap();
        dying.process.wait(LIMIT).unwrap_or_else(|e| panic!("{point}: {e}: {}", dying.process.log()));
        let operator = scene.operator("next", &[]).unwrap();
        let new = only_live_id(scene, &namespace, point);
        assert_ne!(new, old, "{point}");
        assert!(scene.texts(&namespace, point).contains(&(old, "Revoked".to_owned())), "{point}");
        stop(operator);
    }
}

#[test]
fn of_two_replicas_one_leads_and_the_other_takes_over() {
    let api = ApiServer::start().unwrap();
    let scene = Scene::new(&api).unwrap();
    let namespace = scene.namespace("replicas");
    scene.gateway(&namespace);
    let mut replicas = vec![scene.operator("one", &[]).unwrap(), scene.operator("two", &[]).unwrap()];
    let holder = || {
        let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/la-router-operator";
        let lease = scene.api.client().get(path)?.unwrap_or_default();
        Ok(Some(text(&lease, "/spec/holderIdentity")).filter(|holder| !holder.is_empty()))
    };
    let mint = |names: std::ops::Range<u32>| {
        let yaml: String = names.clone().map(|n| token(&format!("agent-{n}"), &namespace, "")).collect();
        scene.apply(&namespace, &yaml);
        for n in names {
            let name = format!("agent-{n}");
            only_live_id(scene, &namespace, &name);
            let object = scene.object(&namespace, "routertokens", &name);
            assert_eq!(object["status"]["revision"], 1, "{name} was minted twice");
        }
    };
    mint(0..10);
    let leader = eventually("a leader", LIMIT, holder).unwrap();
    let leading = replicas.iter().filter(|replica| replica.process.log().contains("leads")).count();
    assert_eq!(leading, 1, "{leading} replicas lead");
    let at = usize::from(leader == "two");
    replicas.remove(at).process.kill();
    mint(10..20);
    assert_ne!(eventually("another leader", LIMIT, holder).unwrap(), leader);
}

#[test]
fn cluster_restored_from_a_backup_gets_a_new_epoch() {
    let api = ApiServer::start().unwrap();
    let scene = Scene::new(&api).unwrap();
    let (namespace, kubelet) = scene.served("backup", "http://127.0.0.1:9");
    let operator = scene.operator("first", &[]).unwrap();
    let gateway = (namespace.as_str(), "routerproxies", "gateway");
    scene.until(gateway, "Programmed", ("True", "Programmed"));
    let backup = scene.secret(&namespace, "gateway-snapshot").unwrap();
    let epoch = || scene.snapshot(&namespace).and_then(|snapshot| snapshot["epoch"].as_u64());
    let before = epoch().unwrap();
    for name in ["one", "two"] {
        scene.apply(&namespace, &token(name, &namespace, ""));
        scene.until((&namespace, "routertokens", name), "Ready", ("True", "Issued"));
    }
    // An operator that remembers would put its own back; one whose cluster was restored does not.
    stop(operator);
    let data = json!({ "data": backup["data"] });
    scene.api.client().merge(&secret_path(&namespace, "gateway-snapshot"), &data).unwrap();
    let _operator = scene.operator("next", &[]).unwrap();
    let newer = || Ok((epoch() > Some(before)).then_some(()));
    eventually("a new epoch", LIMIT, newer).unwrap();
    scene.until(gateway, "Programmed", ("True", "Programmed"));
    drop(kubelet);
}

/// Ends an operator the way a rollout does; the lease is free at once.
fn stop(mut operator: la_tests::cluster::Operator) {
    operator.process.terminate().unwrap();
    let ended = operator.process.wait(Duration::from_secs(10)).unwrap();
    assert!(ended.success(), "{}", operator.process.log());
}
