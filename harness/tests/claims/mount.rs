//! The mount namespace: mount_namespaces(7).
