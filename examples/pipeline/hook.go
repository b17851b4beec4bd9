package main

import (
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// hook is for tests: where STOP_EVERY is n, the process stops itself (SIGSTOP) after
// every n-th message, when the database has committed and the broker does not know yet.
// Whoever tests kills something then, and sends SIGCONT if this process is to go on.
type hook struct {
	every     int64
	count     atomic.Int64
	continued chan os.Signal
}

// newHook makes one as the environment says.
func newHook() *hook {
	h := &hook{every: int64(number("STOP_EVERY", 0)), continued: make(chan os.Signal, 1)}
	if h.every > 0 {
		signal.Notify(h.continued, syscall.SIGCONT)
	}
	return h
}

// committed is called after each message.
func (h *hook) committed() {
	if h.every == 0 || h.count.Add(1)%h.every != 0 {
		return
	}
	syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	<-h.continued // the signal may reach another thread first
}
