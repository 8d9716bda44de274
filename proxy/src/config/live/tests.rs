use la_core::report::AccountState;
use la_core::secret::Secret;
use la_core::snapshot::{Account, Provider};

use super::*;

fn live(access_token: &str) -> Live {
    let account = Account::new("main", CredentialSource::Directory { path: "/home".to_owned() });
    let provider = Provider::anthropic("vendor", "http://127.0.0.1:9", vec![account]);
    let snapshot = Snapshot { providers: vec![provider], ..Snapshot::empty("platform/gateway") };
    Live::build(snapshot, &Credentials::new(), &|key| {
        assert_eq!(key, "vendor/main");
        Ok(Credential::OAuth { access_token: Secret::new(access_token), expires_at: Some(2_000_000_000) })
    })
}

fn account(cell: &LiveCell) -> Arc<AccountEntry> {
    cell.load().account("vendor", "main").cloned().unwrap()
}

fn stage(stage: RenewalStage) -> Renewal {
    Renewal { stage, ..Renewal::default() }
}

/// Longer than any test may take.
const PATIENCE: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn waiting_for_a_renewed_credential_ends_when_it_is_served() {
    let cell = LiveCell::new(live("sk-ant-oat01-one"));
    cell.set_renewal("vendor", "main", stage(RenewalStage::Planned));
    let refused = account(&cell);
    cell.mark_unauthorized(&refused);
    let (renewed, ()) = tokio::join!(cell.renewed(&refused, PATIENCE), async {
        // A snapshot with the same credential is not what is waited for.
        cell.publish(live("sk-ant-oat01-one"));
        tokio::task::yield_now().await;
        cell.publish(live("sk-ant-oat01-two"));
    });
    let renewed = renewed.unwrap();
    assert_eq!(renewed.state(0), AccountState::Ready);
    assert!(renewed.is_renewable(), "how its renewal stands is carried over");
    let at_once = cell.renewed(&refused, Duration::ZERO).await;
    assert!(at_once.is_some(), "one that is there already is not waited for");
}

#[tokio::test]
async fn waiting_ends_with_patience_and_with_hope() {
    let cell = LiveCell::new(live("sk-ant-oat01-one"));
    let refused = account(&cell);
    assert!(cell.renewed(&refused, PATIENCE).await.is_none(), "nobody renews it");
    cell.set_renewal("vendor", "main", stage(RenewalStage::Underway));
    assert!(cell.renewed(&refused, Duration::from_millis(20)).await.is_none());
    let (renewed, ()) = tokio::join!(cell.renewed(&refused, PATIENCE), async {
        cell.set_renewal("vendor", "main", stage(RenewalStage::LoginRequired));
    });
    assert!(renewed.is_none(), "a dead login is not waited for");
}

#[test]
fn renewal_says_more_of_a_credential_that_cannot_serve() {
    let cell = LiveCell::new(live("sk-ant-oat01-one"));
    for (set, while_good, once_refused) in [
        (RenewalStage::Nobody, AccountState::Ready, AccountState::Unauthorized),
        (RenewalStage::Planned, AccountState::Ready, AccountState::Unauthorized),
        (RenewalStage::Underway, AccountState::Ready, AccountState::Renewing),
        (RenewalStage::LoginRequired, AccountState::Ready, AccountState::LoginRequired),
    ] {
        let cell = LiveCell::new(live("sk-ant-oat01-one"));
        cell.set_renewal("vendor", "main", stage(set));
        assert_eq!(account(&cell).state(0), while_good, "{set:?}");
        cell.mark_unauthorized(&account(&cell));
        assert_eq!(account(&cell).state(0), once_refused, "{set:?}");
    }
    assert_eq!(account(&cell).report(0).credential_expires_at, Some(2_000_000_000));
}

#[test]
fn snapshot_says_whether_a_published_credential_is_renewed() {
    let build = |renewable| {
        let mut account = Account::new("main", CredentialSource::Published);
        account.renewable = renewable;
        let provider = Provider::anthropic("vendor", "http://127.0.0.1:9", vec![account]);
        let snapshot = Snapshot { providers: vec![provider], ..Snapshot::empty("platform/gateway") };
        Live::build(snapshot, &Credentials::new(), &|_| Err(String::new()))
    };
    let cell = LiveCell::new(build(true));
    assert!(account(&cell).is_renewable());
    cell.publish(build(false));
    assert!(!account(&cell).is_renewable());
}
