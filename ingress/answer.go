package ingress

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

func (d *daemon) acceptControl() {
	for {
		c, err := d.control.AcceptUnix()
		if err != nil {
			return
		}
		go func() { // ends with the connection
			defer c.Close()
			d.answer(&control{conn: c, in: bufio.NewReader(c)})
		}()
	}
}

// answer answers the questions of one connection.
func (d *daemon) answer(c *control) {
	for {
		var q request
		if err := readLine(c.in, &q); err != nil {
			return
		}
		r, after := d.question(c, q)
		r.V = protocol
		err := writeLine(c.conn, r)
		if after == "stop" || after != "" && err == nil {
			d.ask(after)
		}
		if err != nil {
			return
		}
	}
}

func (d *daemon) question(c *control, q request) (r response, after string) {
	refuse := func(format string, a ...any) (response, string) {
		return response{Error: fmt.Sprintf(format, a...)}, ""
	}
	if q.V != protocol && q.Op != "hello" && q.Op != "stop" && q.Op != "handover" && q.Op != "send" && q.Op != "took" {
		return refuse("protocol %d is not spoken here, but %d", q.V, protocol)
	}
	switch q.Op {
	case "hello":
		return d.hello(), ""
	case "set":
		if q.Table == nil {
			return refuse("set without a table")
		}
		if d.state.Load() != stateServing {
			return refuse("this process is being replaced")
		}
		d.setting.Lock()
		defer d.setting.Unlock()
		d.proxy.set(q.Table)
		d.setZones(q.Table, nil)
		if err := d.saveTable(q.Table); err != nil {
			d.log.Error("the table is not kept", "error", err)
		}
		return response{OK: true, Version: q.Table.Version}, ""
	case "metrics":
		m := &Metrics{Hosts: d.proxy.count.snapshot(), Active: d.proxy.active.Load(), DNS: d.dns.questions.Load(), DNSError: d.dns.failures.Load()}
		return response{OK: true, Metrics: m}, ""
	case "handover":
		if d.state.Load() != stateServing {
			return refuse("this process is being replaced")
		}
		return d.hello(), ""
	case "send":
		if err := sendSockets(c.conn, d.sockets()); err != nil {
			return refuse("handover: %v", err)
		}
		return d.hello(), ""
	case "took", "drain":
		return response{OK: true}, "drain"
	case "stop":
		return response{OK: true, PID: os.Getpid()}, "stop"
	}
	return refuse("unknown op %q", short(q.Op, 40))
}

func (d *daemon) hello() response {
	return response{
		OK: true, PID: os.Getpid(), Build: d.o.build, HTTP: d.addr(sockHTTP), HTTPS: d.addr(sockHTTPS),
		Want: [2]string{d.o.wantHTTP, d.o.wantHTTPS}, Version: d.proxy.table.Load().Version,
	}
}

func (d *daemon) sockets() map[string]syscall.RawConn {
	m := d.dns.sockets()
	for name, l := range d.listeners {
		if c, err := l.SyscallConn(); err == nil {
			m[name] = c
		}
	}
	if c, err := d.lock.SyscallConn(); err == nil {
		m[sockLock] = c
	}
	return m
}

// tableFile is the last table on disk.
type tableFile struct {
	V     int    `json:"v"`
	Table *Table `json:"table"`
}

func (d *daemon) tablePath() string { return filepath.Join(d.o.dataDir, "table.json") }

func (d *daemon) loadTable() *Table {
	b, err := os.ReadFile(d.tablePath())
	if err != nil {
		return nil
	}
	var f tableFile
	if err := json.Unmarshal(b, &f); err != nil || f.V != protocol || f.Table == nil {
		d.log.Warn("the last table is not readable; waiting for a new one", "error", err)
		return nil
	}
	return f.Table
}

// saveTable keeps the table for the next start. It need not survive a power
// cut: the containers it leads to do not either.
func (d *daemon) saveTable(t *Table) error {
	b, err := json.Marshal(tableFile{protocol, t})
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d", d.tablePath(), os.Getpid())
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return os.Rename(tmp, d.tablePath())
}
