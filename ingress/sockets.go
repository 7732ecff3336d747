package ingress

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A handover sends the open sockets of one process to the next: frames of a
// length, a JSON list of names, and as many descriptors; an empty list ends
// it. The kernel takes at most 253 descriptors a message.
const perFrame = 128

// Names of the sockets of a handover: these, and "dns-udp/<address>" and
// "dns-tcp/<address>".
const (
	sockHTTP  = "http"
	sockHTTPS = "https"
	sockLock  = "lock"
)

// sendSockets sends descriptors by name. It dups nothing: the caller keeps the
// sockets open until it returns.
func sendSockets(c *net.UnixConn, socks map[string]syscall.RawConn) error {
	names := make([]string, 0, len(socks))
	for n := range socks {
		names = append(names, n)
	}
	for len(names) > 0 {
		n := min(perFrame, len(names))
		if err := sendFrame(c, names[:n], socks); err != nil {
			return err
		}
		names = names[n:]
	}
	return sendFrame(c, nil, nil)
}

func sendFrame(c *net.UnixConn, names []string, socks map[string]syscall.RawConn) error {
	body, err := json.Marshal(names)
	if err != nil {
		return err
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for _, n := range names {
		var dup int
		var derr error
		if err := socks[n].Control(func(fd uintptr) {
			dup, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
		}); err != nil || derr != nil {
			return fmt.Errorf("socket %s: %w", n, errors.Join(err, derr))
		}
		fds = append(fds, dup)
	}
	msg := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	msg = append(msg, body...)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(msg, rights, nil)
	if err == nil && n < len(msg) {
		_, err = c.Write(msg[n:])
	}
	return err
}

// receiveSockets is the other end. What it gives is the caller's to close; on
// an error everything received is closed.
func receiveSockets(c *net.UnixConn) (_ map[string]*os.File, err error) {
	got := map[string]*os.File{}
	defer func() {
		if err != nil {
			closeFiles(got)
		}
	}()
	for {
		names, fds, err := receiveFrame(c)
		for i, fd := range fds {
			name := fmt.Sprintf("unnamed-%d", fd)
			if i < len(names) {
				name = names[i]
			}
			got[name] = os.NewFile(uintptr(fd), name)
		}
		if err != nil {
			return nil, err
		}
		if len(fds) != len(names) {
			return nil, fmt.Errorf("handover: %d sockets for %d names", len(fds), len(names))
		}
		if len(names) == 0 {
			return got, nil
		}
	}
}

func receiveFrame(c *net.UnixConn) (names []string, fds []int, err error) {
	var body []byte
	oob := make([]byte, unix.CmsgSpace(4*perFrame))
	for need := 4; ; {
		buf := make([]byte, need-len(body))
		n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
		if oobn > 0 {
			got, perr := parseRights(oob[:oobn])
			fds = append(fds, got...)
			err = errors.Join(err, perr)
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fds, err
		}
		body = append(body, buf[:n]...)
		if len(body) == 4 && need == 4 {
			size := binary.BigEndian.Uint32(body)
			if size > 1<<20 {
				return nil, fds, errors.New("handover: a frame is too big")
			}
			need = 4 + int(size)
		}
		if len(body) == need && need > 4 {
			return names, fds, errors.Join(json.Unmarshal(body[4:], &names))
		}
	}
}

func parseRights(oob []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds, nil
}

func closeFiles(m map[string]*os.File) {
	for _, f := range m {
		_ = f.Close()
	}
}
