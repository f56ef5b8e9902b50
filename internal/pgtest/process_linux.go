package pgtest

import "syscall"

// endWithParent has the server shut down at once when the test binary is gone.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
