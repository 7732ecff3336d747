package db

import "sync"

type watchers struct {
	mu sync.Mutex
	by map[string]map[chan struct{}]bool
}

// Watch gives a channel that is signalled after each commit that called
// Tx.Wake(topic), or Tx.Due on the table of that name; signals that nobody took
// yet are one. stop ends it.
func (d *DB) Watch(topic string) (c <-chan struct{}, stop func()) {
	w := &d.watch
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[string]map[chan struct{}]bool{}
	}
	if w.by[topic] == nil {
		w.by[topic] = map[chan struct{}]bool{}
	}
	w.by[topic][ch] = true
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.by[topic], ch)
	}
}

func (w *watchers) signal(topics []string) {
	if len(topics) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range topics {
		for ch := range w.by[t] {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}
