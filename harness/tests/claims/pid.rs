//! The PID namespace: pid_namespaces(7).
