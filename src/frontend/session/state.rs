//! What comes with an upgrade.

/// What an upgrade request holds for the session.
pub(crate) struct CameWith {
    /// A token.
    pub token: Option<String>,
    /// What it names as its user agent.
    pub user_agent: Option<String>,
}
