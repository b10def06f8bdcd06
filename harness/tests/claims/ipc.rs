//! The IPC namespace: ipc_namespaces(7).
