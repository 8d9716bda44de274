use super::*;

fn budget(name: &str, unit: Unit, limit: &str) -> BudgetSpec {
    BudgetSpec {
        name: name.to_owned(),
        unit,
        limit: limit.to_owned(),
        window: WindowSpec::default(),
        enforcement: Enforcement::Hard,
        allow_unbounded: false,
        allow_unpriced: false,
    }
}

fn faults(spec: &LimitsSpec) -> Vec<String> {
    Limits::check(spec).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

fn faults_of(budget: BudgetSpec) -> Vec<String> {
    faults(&LimitsSpec { budgets: vec![budget], ..LimitsSpec::default() })
}

#[test]
fn limits_as_people_write_them_are_understood() {
    let text = r#"{
        "maxRequests": 1000,
        "budgets": [
            {"name": "day", "unit": "USD", "limit": "12.50", "enforcement": "Soft",
             "window": {"calendar": {"every": "Day", "timeZone": "Europe/Berlin"}}},
            {"name": "burst", "unit": "Tokens", "limit": "200000", "window": {"rolling": "90m"}}
        ],
        "rates": [{"unit": "Requests", "limit": 60, "per": "1m", "burst": 10}],
        "concurrency": {"limit": 4, "queue": "30s"},
        "maxOutputTokens": 8192,
        "maxRequestBytes": 1048576
    }"#;
    let spec: LimitsSpec = serde_json::from_str(text).unwrap();
    let limits = Limits::check(&spec).unwrap();
    let shown: Vec<_> = limits
        .budgets
        .iter()
        .map(|b| format!("{} {} {} {} {:?}", b.name, b.unit, b.unit.text(b.limit), b.window, b.enforcement))
        .collect();
    assert_eq!(
        shown,
        [
            "maxRequests Requests 1000 lifetime Hard",
            "day USD 12.5 Day@Europe/Berlin Soft",
            "burst Tokens 200000 rolling/1h30m Hard",
        ]
    );
    assert_eq!(limits.rates, [Rate { unit: Unit::Requests, pace: Pace::new(60, 60_000, 10).unwrap() }]);
    assert_eq!(limits.concurrency, Some(Concurrency { limit: 4, queue: Duration::from_secs(30) }));
    assert_eq!((limits.max_output_tokens, limits.max_request_bytes), (Some(8192), Some(1_048_576)));
    let again = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<LimitsSpec>(&again).unwrap(), spec, "{again}");
    assert_eq!(Limits::check(&LimitsSpec::default()), Ok(Limits::default()), "no limits at all");
}

#[test]
fn faulty_limits_are_named_with_their_remedy() {
    for (unit, limit, sentence) in [
        (Unit::Requests, "0", r#"budgets[0].limit is "0": must be above zero; suspend the token to stop it"#),
        (
            Unit::Usd,
            "0.00",
            r#"budgets[0].limit is "0.00": must be above zero; suspend the token to stop it"#,
        ),
        (Unit::Tokens, "-5", r#"budgets[0].limit is "-5": must be above zero and have no sign"#),
        (Unit::Requests, "1.5", r#"budgets[0].limit is "1.5": must be a whole number"#),
        (Unit::Usd, "ten", r#"budgets[0].limit is "ten": must be written in digits, as in 12.50"#),
        (
            Unit::Usd,
            "0.0000000001",
            r#"budgets[0].limit is "0.0000000001": must have at most 9 digits after the point"#,
        ),
        (
            Unit::Usd,
            "18446744074",
            r#"budgets[0].limit is "18446744074": must be at most 18446744073.709551615"#,
        ),
        (
            Unit::Tokens,
            "18446744073709551616",
            r#"budgets[0].limit is "18446744073709551616": must be at most 18446744073709551615"#,
        ),
    ] {
        assert_eq!(faults_of(budget("a", unit, limit)), [sentence]);
    }
}

#[test]
fn faulty_windows_are_named_with_their_remedy() {
    let calendar = |zone: &str| Some(CalendarSpec { every: Every::Day, time_zone: zone.to_owned() });
    for (calendar, rolling, sentence) in [
        (
            calendar("Mars/Olympus"),
            None,
            r#"budgets[0].window.calendar.timeZone is "Mars/Olympus": must be a time zone of the IANA database such as UTC or Europe/Berlin"#,
        ),
        (
            calendar("UTC"),
            Some("1h"),
            r#"budgets[0].window is "calendar Day and rolling 1h": must have one form; remove the other"#,
        ),
        (
            None,
            Some("0s"),
            r#"budgets[0].window.rolling is "0s": must be a duration of at least 1ms such as 24h or 90m"#,
        ),
        (
            None,
            Some("1d"),
            r#"budgets[0].window.rolling is "1d": must be a duration of at least 1ms such as 24h or 90m"#,
        ),
    ] {
        let window = WindowSpec { calendar, rolling: rolling.map(str::to_owned) };
        assert_eq!(faults_of(BudgetSpec { window, ..budget("a", Unit::Tokens, "1") }), [sentence]);
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let rate = |unit, limit, per: &str, burst| RateSpec { unit, limit, per: per.to_owned(), burst };
    let spec = LimitsSpec {
        max_requests: Some(-1),
        budgets: vec![
            budget("a", Unit::Tokens, "1"),
            budget("a", Unit::Usd, "1"),
            budget("", Unit::Usd, "1"),
            budget("a b", Unit::Usd, "x"),
        ],
        rates: vec![
            rate(Unit::Usd, 1, "1m", None),
            rate(Unit::Tokens, 0, "1m", Some(-1)),
            rate(Unit::Tokens, 1, "0s", None),
            rate(Unit::Tokens, i64::MAX, "24h", None),
            rate(Unit::Requests, 1, "60s", None),
            rate(Unit::Requests, 2, "1m", None),
        ],
        concurrency: Some(ConcurrencySpec { limit: 0, queue: Some("soon".to_owned()) }),
        max_output_tokens: Some(0),
        max_request_bytes: Some(-1),
    };
    let fields: Vec<_> = Limits::check(&spec).unwrap_err().into_iter().map(|fault| fault.field).collect();
    assert_eq!(
        fields,
        [
            "maxRequests",
            "budgets[1].name",
            "budgets[2].name",
            "budgets[3].name",
            "budgets[3].limit",
            "rates[0].unit",
            "rates[1].limit",
            "rates[1].burst",
            "rates[2].per",
            "rates[3].burst",
            "rates[5].per",
            "concurrency.limit",
            "concurrency.queue",
            "maxOutputTokens",
            "maxRequestBytes",
        ]
    );
    let many = (0..17).map(|at| budget(&format!("b{at}"), Unit::Tokens, "1")).collect();
    assert_eq!(
        faults(&LimitsSpec { budgets: many, ..LimitsSpec::default() }),
        [r#"budgets is "17 entries": must have at most 16"#]
    );
    let short = LimitsSpec {
        max_requests: Some(1),
        budgets: vec![budget("maxRequests", Unit::Requests, "1")],
        ..LimitsSpec::default()
    };
    assert_eq!(
        faults(&short),
        [r#"budgets[0].name is "maxRequests": is taken by another budget; names must differ"#]
    );
    assert_eq!(check_budgets(&[budget("a", Unit::Tokens, "0")]).unwrap_err()[0].field, "budgets[0].limit");
    assert_eq!(check_budgets(&[budget("a", Unit::Tokens, "7")]).unwrap()[0].limit, 7);
}

#[test]
fn exception_without_an_effect_is_refused() {
    let soft = |budget| BudgetSpec { enforcement: Enforcement::Soft, ..budget };
    let (tokens, usd) = (budget("t", Unit::Tokens, "5"), budget("m", Unit::Usd, "5"));
    for good in [
        BudgetSpec { allow_unbounded: true, ..tokens.clone() },
        BudgetSpec { allow_unbounded: true, allow_unpriced: true, ..usd.clone() },
    ] {
        assert_eq!(faults_of(good), Vec::<String>::new());
    }
    for bad in [
        BudgetSpec { allow_unbounded: true, ..budget("r", Unit::Requests, "5") },
        BudgetSpec { allow_unpriced: true, ..tokens.clone() },
        soft(BudgetSpec { allow_unbounded: true, ..tokens }),
        soft(BudgetSpec { allow_unpriced: true, ..usd }),
    ] {
        let found = faults_of(bad);
        assert!(found.len() == 1 && found[0].contains("has no effect here"), "{found:?}");
    }
}
