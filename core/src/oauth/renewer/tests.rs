use super::super::{Jitter, Plan};
use super::*;
use crate::secret::Secret;

const NOW: i64 = 1_800_000_000_000;

fn login(number: u32, expires_at_ms: i64) -> LoginFile {
    let text = format!(
        r#"{{"accessToken":"sk-ant-oat01-{number}","refreshToken":"r{number}","expiresAt":{expires_at_ms}}}"#
    );
    LoginFile::read(Secret::new(text)).unwrap()
}

fn token(number: u32) -> Fingerprint {
    Fingerprint::of(&Secret::new(format!("sk-ant-oat01-{number}")))
}

fn renewed(number: u32, expires_at_ms: i64) -> Event {
    Event::Answered(Answer::Renewed(Renewed {
        access_token: Secret::new(format!("sk-ant-oat01-{number}")),
        refresh_token: Some(Secret::new(format!("r{number}"))),
        expires_at: expires_at_ms / 1_000,
        scopes: Vec::new(),
    }))
}

fn refused() -> Event {
    Event::Answered(Answer::Refused(Refused::InvalidGrant))
}

fn plan() -> Plan {
    Plan {
        renews: true,
        before_ms: Plan::BEFORE_DEFAULT_MS,
        jitter: Jitter::of("vendor", "main"),
        serves_unstored: true,
    }
}

/// A login and the clock it goes by.
struct Story {
    renewer: Renewer,
    now_ms: i64,
}

impl Story {
    /// One that was read from the store and is published.
    fn of(plan: Plan, login: LoginFile) -> (Self, Action) {
        let (renewer, action) = Renewer::start(plan);
        assert_eq!(action, Action::Read { exclusive: false });
        let mut story = Self { renewer, now_ms: NOW };
        assert_eq!(story.then(Event::Read(Some(login.clone()))), Action::Publish(login));
        let action = story.then(Event::Done);
        (story, action)
    }

    /// One whose token is good for hours.
    fn good() -> Self {
        let (story, action) = Self::of(plan(), login(1, NOW + 8 * 3_600_000));
        assert!(matches!(action, Action::Wait { until_ms: Some(at_ms) } if at_ms > NOW), "{action:?}");
        story
    }

    /// One that was posted because its token was refused.
    fn posted() -> Self {
        let mut story = Self::good();
        story.demand(1);
        assert_eq!(story.read(login(1, NOW + 8 * 3_600_000)), Action::Post(login(1, NOW + 8 * 3_600_000)));
        assert_eq!(story.renewer.standing(), Standing::Underway);
        story
    }

    fn then(&mut self, event: Event) -> Action {
        self.renewer.next(event, self.now_ms)
    }

    fn after(&mut self, pause_ms: i64, event: Event) -> Action {
        self.now_ms += pause_ms;
        self.then(event)
    }

    fn read(&mut self, login: LoginFile) -> Action {
        self.then(Event::Read(Some(login)))
    }

    /// Says that a token is refused, which must lead to an exclusive read.
    fn demand(&mut self, number: u32) {
        assert_eq!(self.then(Event::Demanded(token(number))), Action::Read { exclusive: true });
    }
}

fn pause(now_ms: i64, action: &Action) -> Option<i64> {
    let Action::Wait { until_ms } = action else { panic!("{action:?}") };
    until_ms.map(|at_ms| at_ms - now_ms)
}

const LONG: i64 = 8 * 3_600_000;

#[test]
fn due_login_is_read_posted_stored_and_then_published() {
    let (mut story, action) = Story::of(plan(), login(1, NOW + 60_000));
    assert_eq!(action, Action::Read { exclusive: true }, "hours before its end it would have been due");
    assert_eq!(story.read(login(1, NOW + 60_000)), Action::Post(login(1, NOW + 60_000)));
    let new = login(2, NOW + LONG);
    assert_eq!(story.then(renewed(2, NOW + LONG)), Action::Store(new.clone()));
    assert_eq!(story.then(Event::Stored { is_done: true }), Action::Publish(new));
    let action = story.then(Event::Done);
    let due_ms = pause(NOW, &action).unwrap();
    assert!((LONG * 7 / 10..=LONG * 8 / 10).contains(&due_ms), "{due_ms}");
    assert_eq!(story.renewer.standing(), Standing::Planned);
    assert_eq!(story.renewer.renewed_at_ms(), Some(NOW));
    assert_eq!(story.after(due_ms, Event::Due), Action::Read { exclusive: true });
}

#[test]
fn expired_login_is_renewed_at_once() {
    let (_, action) = Story::of(plan(), login(1, NOW - 1));
    assert_eq!(action, Action::Read { exclusive: true });
}

#[test]
fn refusals_of_one_token_lead_to_one_post_and_of_an_old_one_to_none() {
    let mut story = Story::posted();
    story.then(renewed(2, NOW + LONG));
    story.then(Event::Stored { is_done: true });
    story.then(Event::Done);
    for _ in 0..1_000 {
        assert!(matches!(story.then(Event::Demanded(token(1))), Action::Wait { .. }));
    }
    story.demand(2);
    let action = story.then(Event::Unreadable);
    assert_eq!(pause(NOW, &action), Some(1_000));
}

#[test]
fn token_that_others_stored_before_the_post_is_taken_instead() {
    let mut story = Story::good();
    story.demand(1);
    let theirs = login(7, NOW + LONG);
    assert_eq!(story.read(theirs.clone()), Action::Publish(theirs));
    assert!(matches!(story.then(Event::Done), Action::Wait { until_ms: Some(_) }));
}

#[test]
fn login_that_cannot_be_stored_any_more_is_not_posted() {
    let mut story = Story::good();
    story.demand(1);
    story.renewer.allow(false);
    assert!(matches!(story.read(login(1, NOW + LONG)), Action::Wait { .. }));
    assert_eq!(story.renewer.standing(), Standing::Followed);
}

#[test]
fn while_another_renews_nothing_is_posted() {
    let mut story = Story::good();
    story.demand(1);
    let action = story.then(Event::Busy);
    assert_eq!(pause(NOW, &action), Some(1_000));
    assert_eq!(story.after(1_000, Event::Due), Action::Read { exclusive: true });
}

#[test]
fn refusal_is_believed_only_after_a_second_look() {
    let mut story = Story::posted();
    assert_eq!(story.then(refused()), Action::Read { exclusive: true });
    let action = story.read(login(1, NOW + LONG));
    assert_eq!(pause(NOW, &action), Some(2_000));
    assert_eq!(story.after(2_000, Event::Due), Action::Read { exclusive: true });
    assert_eq!(story.read(login(1, NOW + LONG)), Action::GiveUp(Refused::InvalidGrant));
    assert_eq!(story.renewer.standing(), Standing::LoginRequired(Refused::InvalidGrant));
    let nothing = Action::Wait { until_ms: None };
    for event in [Event::Done, Event::Due, Event::Demanded(token(1))] {
        assert_eq!(story.after(LONG, event), nothing);
    }
    for event in [Event::Changed, Event::Asked] {
        assert_eq!(story.then(event), Action::Read { exclusive: false });
        assert_eq!(story.read(login(1, NOW + LONG)), nothing, "the same login is as dead as before");
    }
}

#[test]
fn login_that_changed_after_a_refusal_is_adopted() {
    for looks in [1, 2] {
        let mut story = Story::posted();
        story.then(refused());
        if looks == 2 {
            story.read(login(1, NOW + LONG));
            assert_eq!(story.after(2_000, Event::Due), Action::Read { exclusive: true });
        }
        let theirs = login(7, NOW + LONG);
        assert_eq!(story.read(theirs.clone()), Action::Publish(theirs), "look {looks}");
        assert_eq!(story.renewer.standing(), Standing::Planned);
    }
}

#[test]
fn dead_login_lives_again_when_somebody_logs_in() {
    let mut story = Story::posted();
    assert_eq!(
        story.then(Event::Answered(Answer::Refused(Refused::Client))),
        Action::GiveUp(Refused::Client),
        "a refused client is not a matter of the login"
    );
    story.then(Event::Done);
    assert_eq!(story.then(Event::Changed), Action::Read { exclusive: false });
    let new = login(9, NOW + LONG);
    assert_eq!(story.read(new.clone()), Action::Publish(new));
    assert_eq!(story.renewer.standing(), Standing::Planned);
}

#[test]
fn answers_that_decide_nothing_are_waited_out() {
    let mut story = Story::posted();
    let later = |trouble, after_seconds| Event::Answered(Answer::TryLater { trouble, after_seconds });
    let action = story.then(later(Trouble::RateLimited, Some(7)));
    assert_eq!(pause(NOW, &action), Some(7_000));
    let until_ms = NOW + 7_000;
    assert_eq!(story.renewer.standing(), Standing::Delayed { trouble: Trouble::RateLimited, until_ms });
    for event in [Event::Demanded(token(1)), Event::Asked, Event::Due] {
        assert_eq!(pause(NOW, &story.then(event)), Some(7_000), "nothing makes it sooner");
    }
    for wait_ms in [10_000, 20_000] {
        let pause_ms = pause(story.now_ms, &story.then(Event::Due)).unwrap();
        assert_eq!(story.after(pause_ms, Event::Due), Action::Read { exclusive: true });
        story.read(login(1, NOW + LONG));
        let action = story.then(later(Trouble::Status(500), None));
        assert_eq!(pause(story.now_ms, &action), Some(wait_ms));
    }
}

#[test]
fn what_cannot_be_stored_is_served_kept_and_tried_every_second() {
    let mut story = Story::posted();
    let new = login(2, NOW + LONG);
    assert_eq!(story.then(renewed(2, NOW + LONG)), Action::Store(new.clone()));
    assert_eq!(story.then(Event::Stored { is_done: false }), Action::Publish(new.clone()));
    for _ in 0..3 {
        let action = story.then(Event::Done);
        assert_eq!(pause(story.now_ms, &action), Some(1_000));
        assert!(story.renewer.is_unstored());
        assert_eq!(story.renewer.standing(), Standing::Unstored);
        assert_eq!(story.after(1_000, Event::Due), Action::Read { exclusive: true });
        assert_eq!(story.read(login(1, NOW + LONG)), Action::Store(new.clone()));
        assert!(matches!(story.then(Event::Stored { is_done: false }), Action::Wait { .. }));
    }
    story.after(1_000, Event::Due);
    assert_eq!(story.then(Event::Read(None)), Action::Store(new.clone()), "the file has gone meanwhile");
    assert_eq!(story.then(Event::Stored { is_done: true }), Action::Publish(new));
    assert!(!story.renewer.is_unstored());
}

#[test]
fn nothing_unstored_is_served_where_that_is_not_wanted() {
    let (mut story, _) = Story::of(Plan { serves_unstored: false, ..plan() }, login(1, NOW - 1));
    story.read(login(1, NOW - 1));
    story.then(renewed(2, NOW + LONG));
    assert!(matches!(story.then(Event::Stored { is_done: false }), Action::Wait { .. }));
}

#[test]
fn new_login_in_the_store_wins_over_an_unstored_one() {
    let mut story = Story::posted();
    story.then(renewed(2, NOW + LONG));
    story.then(Event::Stored { is_done: false });
    story.then(Event::Done);
    assert_eq!(story.then(Event::Changed), Action::Read { exclusive: true });
    let theirs = login(7, NOW + LONG);
    assert_eq!(story.read(theirs.clone()), Action::Publish(theirs));
    assert!(!story.renewer.is_unstored());
}

#[test]
fn vendor_that_refuses_every_new_token_is_asked_less_and_less() {
    let mut story = Story::posted();
    let mut waits = Vec::new();
    for number in 2..6 {
        let file = login(number, NOW + LONG);
        assert_eq!(story.then(renewed(number, NOW + LONG)), Action::Store(file.clone()));
        story.then(Event::Stored { is_done: true });
        story.then(Event::Done);
        let action = story.then(Event::Demanded(token(number)));
        if let Action::Wait { until_ms: Some(at_ms) } = action {
            waits.push((at_ms - story.now_ms) / 1_000);
            let pause_ms = at_ms - story.now_ms;
            assert_eq!(story.after(pause_ms, Event::Due), Action::Read { exclusive: true });
        }
        story.read(file);
    }
    assert_eq!(waits, [60, 120, 240]);
}

#[test]
fn login_that_nobody_renews_here_is_followed_and_its_end_is_told_once() {
    let bare = LoginFile::read(Secret::new(format!(
        r#"{{"accessToken":"sk-ant-oat01-1","expiresAt":{}}}"#,
        NOW + LONG
    )))
    .unwrap();
    for (sentence, plan, login) in [
        ("no refresh token", plan(), bare),
        ("others renew it", Plan { renews: false, ..plan() }, login(1, NOW + LONG)),
    ] {
        let (mut story, action) = Story::of(plan, login.clone());
        assert_eq!(pause(NOW, &action), Some(LONG - 3_600_000), "{sentence}");
        assert_eq!(story.renewer.standing(), Standing::Followed, "{sentence}");
        let expires_at = (NOW + LONG) / 1_000;
        assert_eq!(story.after(LONG - 3_600_000, Event::Due), Action::Warn { expires_at }, "{sentence}");
        for event in [Event::Done, Event::Demanded(token(1)), Event::Asked, Event::Due] {
            assert_eq!(story.after(LONG, event), Action::Wait { until_ms: None }, "{sentence}");
        }
    }
}

#[test]
fn store_without_a_login_is_waited_for() {
    let (mut renewer, _) = Renewer::start(plan());
    assert_eq!(renewer.next(Event::Read(None), NOW), Action::Wait { until_ms: None });
    assert_eq!(renewer.standing(), Standing::Missing);
    assert_eq!(renewer.next(Event::Changed, NOW), Action::Read { exclusive: false });
    let new = login(1, NOW + LONG);
    assert_eq!(renewer.next(Event::Read(Some(new.clone())), NOW), Action::Publish(new));
}
