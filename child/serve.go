package main

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway/engine/local/wire"
)

// cleanTime is how long delete waits for what it cleans up.
const cleanTime = 30 * time.Second

var errNoTTY = errors.New("there is no terminal")

// peer is one connected server.
type peer struct {
	mu   sync.Mutex
	conn net.Conn
	enc  *json.Encoder
}

func (p *peer) say(n int, r wire.Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.N = n
	_ = p.conn.SetWriteDeadline(time.Now().Add(5 * time.Second)) // never stuck on a server that does not read
	_ = p.enc.Encode(r)
}

// serve answers one connection until its end.
func (c *child) serve(conn net.Conn) {
	defer conn.Close()
	c.mu.Lock()
	c.conns++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.conns--
		c.idle = time.Now()
		c.mu.Unlock()
	}()
	p := &peer{conn: conn, enc: json.NewEncoder(conn)}
	dec := json.NewDecoder(conn)
	hello := false
	for {
		var q wire.Request
		if err := dec.Decode(&q); err != nil {
			return
		}
		if hello {
			c.handle(p, q)
			continue
		}
		if q.Op != wire.OpHello || q.V != wire.Version {
			msg := "the first message must be hello"
			if q.Op == wire.OpHello {
				msg = "this child speaks protocol version " + strconv.Itoa(wire.Version) + ", not " + strconv.Itoa(q.V)
			}
			p.say(q.N, wire.Reply{Error: msg, Code: wire.CodeVersion, V: wire.Version})
			return
		}
		hello = true
		p.say(q.N, wire.Reply{V: wire.Version, Pid: os.Getpid(), Phase: c.state().Phase})
	}
}

// handle answers one request; what takes time is answered later.
func (c *child) handle(p *peer, q wire.Request) {
	switch q.Op {
	case wire.OpStart:
		go func() { p.say(q.N, c.start(q.Config)) }()
	case wire.OpWait:
		go func() {
			<-c.ended
			p.say(q.N, c.state())
		}()
	case wire.OpState:
		p.say(q.N, c.state())
	case wire.OpSignal:
		p.say(q.N, answer(c.signal(syscall.Signal(q.Signal))))
	case wire.OpKill:
		c.kill(q.Grace, q.Reason)
		p.say(q.N, wire.Reply{})
	case wire.OpResize:
		p.say(q.N, answer(c.resize(q.W, q.H)))
	case wire.OpInput:
		go func() { p.say(q.N, answer(c.input(q.Data))) }() // the container may not read
	case wire.OpDelete:
		go c.delete(p, q.N)
	default:
		p.say(q.N, wire.Reply{Error: "unknown operation " + strconv.Quote(q.Op), Code: wire.CodeVersion, V: wire.Version})
	}
}

func answer(err error) wire.Reply {
	if err != nil {
		return wire.Reply{Error: err.Error(), Code: wire.CodeState}
	}
	return wire.Reply{}
}

func (c *child) state() wire.Reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	return wire.Reply{Phase: c.phase, Pid: c.pid, Start: c.started, Exit: c.exit}
}

// delete ends all and leaves. A child that never started anything just leaves.
func (c *child) delete(p *peer, n int) {
	if !c.never() {
		c.kill(0, wire.ReasonDelete)
		select {
		case <-c.clean:
		case <-c.no:
		case <-time.After(cleanTime):
		}
		select {
		case <-c.no: // the socket is another child's
		default:
			_ = os.Remove(c.run(wire.SocketFile))
		}
	}
	p.say(n, wire.Reply{})
	os.Exit(0)
}

func (c *child) terminal() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tty == nil {
		return nil, errNoTTY
	}
	return c.tty, nil
}

func (c *child) resize(w, h uint16) error {
	t, err := c.terminal()
	if err != nil {
		return err
	}
	rc, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var e error
	err = rc.Control(func(fd uintptr) {
		e = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: h, Col: w})
	})
	return errors.Join(err, e)
}

func (c *child) input(b []byte) error {
	t, err := c.terminal()
	if err != nil {
		return err
	}
	_, err = t.Write(b)
	return err
}
