package ingress

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The control protocol: on a unix socket in the run dir, one JSON object a
// line, each question followed by its answer. A question of a later protocol
// than the process speaks is answered with ok false; "hello", "stop" and
// "handover" mean the same in every protocol, so that versions can follow each
// other in both directions.
const (
	protocol   = 1
	maxMessage = 256 << 20 // a table of about a million paths
)

type request struct {
	V     int    `json:"v"`
	Op    string `json:"op"` // hello, set, metrics, drain, stop, handover, took, follow
	Table *Table `json:"table,omitempty"`
}

type response struct {
	V       int       `json:"v"`
	OK      bool      `json:"ok"`
	Error   string    `json:"error,omitempty"`
	PID     int       `json:"pid,omitempty"`
	Build   string    `json:"build,omitempty"`
	HTTP    string    `json:"http,omitempty"`  // address that it listens on
	HTTPS   string    `json:"https,omitempty"` //
	Want    [2]string `json:"want"`            // what it was told to listen on
	Version int64     `json:"version,omitempty"`
	Metrics *Metrics  `json:"metrics,omitempty"`
}

func socketPath(runDir string) string { return filepath.Join(runDir, "ingress.sock") }

// control is one connection to an ingress process.
type control struct {
	conn *net.UnixConn
	in   *bufio.Reader
}

func dialControl(ctx context.Context, runDir string) (*control, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socketPath(runDir))
	if err != nil {
		return nil, err
	}
	return &control{conn: c.(*net.UnixConn), in: bufio.NewReader(c)}, nil
}

func (c *control) close() { _ = c.conn.Close() }

// peer is the PID of the process that listens, which is known even if it does
// not answer.
func (c *control) peer() (pid int, err error) {
	rc, err := c.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := rc.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	if err = errors.Join(cerr, err); err == nil && pid < 1 {
		err = errors.New("a process that cannot be seen from here")
	}
	return pid, err
}

// call asks one question. It ends with ctx.
func (c *control) call(ctx context.Context, q request) (response, error) {
	if q.V == 0 {
		q.V = protocol
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writeLine(c.conn, q); err != nil {
		return response{}, cause(ctx, err)
	}
	var r response
	if err := readLine(c.in, &r); err != nil {
		return response{}, cause(ctx, err)
	}
	if !r.OK {
		return r, fmt.Errorf("the ingress process says: %s", r.Error)
	}
	return r, nil
}

// ask is one question on a connection of its own.
func ask(ctx context.Context, runDir string, q request) (response, error) {
	c, err := dialControl(ctx, runDir)
	if err != nil {
		return response{}, err
	}
	defer c.close()
	return c.call(ctx, q)
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func writeLine(c net.Conn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.Write(append(b, '\n'))
	return err
}

// readLine reads one line of bounded size.
func readLine(r *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return json.Unmarshal(line, v)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if len(line) > maxMessage {
			return fmt.Errorf("a control message of more than %d bytes", maxMessage)
		}
	}
}

// listenControl opens the control socket beside its place and puts it there by
// a rename, so that a predecessor's is replaced without a gap.
func listenControl(runDir string) (*net.UnixListener, error) {
	tmp := fmt.Sprintf("%s.%d", socketPath(runDir), os.Getpid())
	_ = os.Remove(tmp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, socketPath(runDir)))
	if err != nil {
		_ = l.Close()
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}
