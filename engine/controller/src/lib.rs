//! Issues network configurations and certificates; storage behind a small trait. Sans-I/O core.
