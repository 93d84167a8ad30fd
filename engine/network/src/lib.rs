//! What a virtual network is to a member: configuration, credentials, rules, frames, multicast, addresses. Pure.
