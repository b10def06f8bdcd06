//! The network namespace: network_namespaces(7).
