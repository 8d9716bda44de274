//! Budgets: reserve, then settle, exactly once.
