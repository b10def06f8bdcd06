//! The user namespace: user_namespaces(7).
