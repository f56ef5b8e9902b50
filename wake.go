package converge

// Waker is an [Agent] that something beside the runtime has to wake: a file that it watches, a peer that
// it talks to by other means. SetWake is called once, by [New]. wake makes a turn due, whether or not
// there is anything to show; it does not block, may be called at any time and from any goroutine, and
// several calls before the turn count as one.
type Waker interface {
	SetWake(wake func())
}

func (r *Runtime) handOutWake() {
	if w, ok := r.config.Agent.(Waker); ok {
		w.SetWake(func() { r.schedule.WakeAfter(0) })
	}
}
