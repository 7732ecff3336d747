package main

import (
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reaper takes the status of every process below this one.
type reaper struct {
	mu   sync.Mutex
	cond sync.Cond
	gen  int // counts the starts
	got  map[int]status
	only map[int]bool // whose status is kept; nil: everybody's
}

type status struct {
	ws unix.WaitStatus
	at time.Time
}

func newReaper() *reaper {
	r := &reaper{got: map[int]status{}}
	r.cond.L = &r.mu
	go r.loop()
	return r
}

// loop reads the count of starts before it waits, and sleeps only while it is
// unchanged: a start may happen between the two.
func (r *reaper) loop() {
	for {
		var ws unix.WaitStatus
		r.mu.Lock()
		gen := r.gen
		r.mu.Unlock()
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		r.mu.Lock()
		switch {
		case err == unix.ECHILD: // nothing to wait for until the next start
			for r.gen == gen {
				r.cond.Wait()
			}
		case pid > 0:
			if _, ok := r.got[pid]; !ok && (r.only == nil || r.only[pid]) {
				r.got[pid] = status{ws, time.Now()}
			}
			r.cond.Broadcast()
		}
		r.mu.Unlock()
	}
}

// spawn starts a program; files are its first descriptors.
func (r *reaper) spawn(prog string, args []string, files []uintptr) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(prog, append([]string{prog}, args...), &syscall.ProcAttr{
		Files: files, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	})
	if err == nil {
		delete(r.got, pid) // an earlier process may have had the number
		if r.only != nil {
			r.only[pid] = true
		}
		r.gen++
		r.cond.Broadcast()
	}
	return pid, err
}

// settle forgets all but one process, from now on too: a container without a
// pid namespace may leave any number of orphans to this program.
func (r *reaper) settle(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.only = map[int]bool{pid: true}
	for p := range r.got {
		if p != pid {
			delete(r.got, p)
		}
	}
}

func (r *reaper) wait(pid int) status {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if s, ok := r.got[pid]; ok {
			return s
		}
		r.cond.Wait()
	}
}

// kill sends a signal unless the process was reaped: then its number may be
// someone else's.
func (r *reaper) kill(pid int, s syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.got[pid]; ok {
		return unix.ESRCH
	}
	return unix.Kill(pid, s)
}
