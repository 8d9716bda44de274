//! Claude logins as files hold them. Filled in with the kinds.
