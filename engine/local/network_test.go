package local

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"slipway/engine"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	p := plan{Bases: []byte{31, 77}, Numbers: map[string]int{"": 0}}
	for i := 1; i < 300; i++ {
		n := p.free()
		if n != i {
			t.Fatalf("%d is free, not %d", n, i)
		}
		p.Numbers[fmt.Sprint(i)] = n
	}
	delete(p.Numbers, "17")
	if n := p.free(); n != 17 {
		t.Errorf("%d", n)
	}
	for n, want := range map[int]string{0: "10.31.0.0/24", 249: "10.31.249.0/24", 250: "10.77.0.0/24", 299: "10.77.49.0/24"} {
		if got := p.prefix(n).String(); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	if got := mac(netip.MustParseAddr("10.31.0.2")).String(); got != "02:53:0a:1f:00:02" {
		t.Error(got)
	}
}

// TestManyNetworks makes the network of the 251st project.
func TestManyNetworks(t *testing.T) {
	b := open(t)
	b.net.mu.Lock()
	for i := 1; i < perBase; i++ {
		b.net.plan.Numbers[fmt.Sprintf("old-%d", i)] = i
	}
	b.net.mu.Unlock()
	i := b.serve("p", answers)
	if p := b.net.plan; len(p.Bases) != 2 || p.Bases[0] == p.Bases[1] || i.Addr.As4()[1] != p.Bases[1] || i.Addr.As4()[2] != 0 {
		t.Fatalf("%+v %s", p.Bases, i.Addr)
	}
	until(t, "it answers", func() bool { return ask(i.Addr.String()) == "hello" })
	if _, out := b.do(reach(i.Addr.String() + ":80")); out != "shut" {
		t.Errorf("from a run: %q", out)
	}
	b.restart()
	until(t, "those that nobody has anything in are forgotten", func() bool {
		b.net.mu.Lock()
		defer b.net.mu.Unlock()
		return len(b.net.plan.Numbers) == 2
	})
	until(t, "it answers still", func() bool { return ask(i.Addr.String()) == "hello" })
	l, err := b.Networks(t.Context())
	if err != nil || len(l) != 2 || l[0].Name != "" && l[1].Name != "" || !l[0].Prefix.Contains(l[0].Gateway) {
		t.Errorf("%+v %v", l, err)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	n := &network{taken: map[string]map[int]bool{}, next: map[string]int{}}
	seen := map[int]bool{}
	for range lastAddr - firstAddr + 1 {
		a, err := n.take("p")
		if err != nil || seen[a] || a < firstAddr || a > lastAddr {
			t.Fatalf("%d %v", a, err)
		}
		seen[a] = true
	}
	if _, err := n.take("p"); err == nil {
		t.Error("no error")
	}
	n.give("p", 9)
	n.give("p", 5)
	for _, want := range []int{5, 9} {
		if a, err := n.take("p"); err != nil || a != want {
			t.Errorf("%d %v", a, err)
		}
	}
	n = &network{taken: map[string]map[int]bool{}, next: map[string]int{}}
	n.keep("p", 2)
	if a, _ := n.take("p"); a != 3 {
		t.Errorf("%d", a)
	}
	n.give("p", 3)
	if a, _ := n.take("p"); a != 4 { // not the one that was in use just now
		t.Errorf("%d", a)
	}
}

// TestIdleNetworks empties one network again and again: this does not put off
// the end of another, and ends none that was in use a moment ago.
func TestIdleNetworks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &network{
			plan:  plan{Numbers: map[string]int{"": 0, "busy": 1, "left": 2, "used": 3}},
			taken: map[string]map[int]bool{}, next: map[string]int{}, empty: map[string]time.Time{},
		}
		var gone []string
		n.mu.Lock()
		n.idle = time.AfterFunc(time.Hour, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			gone = append(gone, n.unused()...)
		})
		n.mu.Unlock()
		defer n.idle.Stop()
		use := func(name string) int {
			last, err := n.take(name)
			if err != nil {
				t.Fatal(err)
			}
			return last
		}
		use("used")
		n.give("left", use("left"))
		for range 5 {
			n.give("busy", use("busy"))
			time.Sleep(networkIdle / 3)
			synctest.Wait()
		}
		wants := func(names ...string) {
			t.Helper()
			n.mu.Lock()
			defer n.mu.Unlock()
			if !slices.Equal(gone, names) {
				t.Errorf("gone: %q, not %q", gone, names)
			}
			for _, name := range names {
				delete(n.plan.Numbers, name)
			}
		}
		wants("left")
		time.Sleep(2 * networkIdle)
		synctest.Wait()
		wants("left", "busy")
	})
}

// TestNetworkWithoutContainers is taken off the host some time after its last
// container; that of a project that has others stays.
func TestNetworkWithoutContainers(t *testing.T) {
	b := open(t)
	stays := b.serve("stays", answers)
	b.serve("goes", answers)
	bridge := b.net.bridgeName(b.net.plan.Numbers["goes"])
	if _, err := netlink.LinkByName(bridge); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(t.Context(), "stack/goes"); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName(bridge); err != nil {
		t.Errorf("it went with its container: %v", err)
	}
	until(t, "its bridge is gone", func() bool {
		l, err := b.Networks(t.Context())
		_, lerr := netlink.LinkByName(bridge)
		return err == nil && len(l) == 2 && lerr != nil
	})
	if ask(stays.Addr.String()) != "hello" {
		t.Error("the other one does not answer")
	}
	if i := b.serve("goes", answers); ask(i.Addr.String()) == "" {
		t.Errorf("started again: %+v", i)
	}
}

// TestBlocks is in a network namespace of its own: a firewall that drops would
// be felt by everybody else.
func TestBlocks(t *testing.T) {
	t.Parallel()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			dir := "/data/engine"
			if l, err := Blocks(t.Context(), dir); err != nil || len(l) != 0 {
				return fmt.Errorf("on a host without a firewall: %+v %w", l, err)
			}
			c, err := nftables.New()
			if err != nil {
				return err
			}
			drop := nftables.ChainPolicyDrop
			ip := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
			fwd := c.AddChain(&nftables.Chain{Table: ip, Name: "FORWARD", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
			inet := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "fw"})
			c.AddChain(&nftables.Chain{Table: inet, Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &drop})
			if err := c.Flush(); err != nil {
				return err
			}
			l, err := Blocks(t.Context(), dir)
			if err != nil || len(l) != 2 {
				return fmt.Errorf("%+v %w", l, err)
			}
			for _, b := range l {
				if b.Chain != "ip filter FORWARD" && b.Chain != "inet fw in" || len(b.Mend) == 0 || !strings.Contains(b.Mend[0], b.Chain) {
					return fmt.Errorf("%+v", b)
				}
			}
			r := &rules{c: c, t: ip}
			r.rule(fwd, list(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("sw" + instance(dir)[:6] + "-")}), verdict(expr.VerdictAccept))
			if err := c.Flush(); err != nil {
				return err
			}
			if l, err := Blocks(t.Context(), dir); err != nil || len(l) != 1 || l[0].Chain != "inet fw in" {
				return fmt.Errorf("mended: %+v %w", l, err)
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLegacyBlocks has a program in the place of iptables-legacy.
func TestLegacyBlocks(t *testing.T) {
	t.Parallel()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		script string
		want   string // chains
		err    string
	}{
		"open":      {t.Context(), "echo -P INPUT ACCEPT; echo -P FORWARD ACCEPT", "", ""},
		"shut":      {t.Context(), "echo -P INPUT DROP; echo -P FORWARD DROP; echo -P OUTPUT ACCEPT", "iptables-legacy INPUT, iptables-legacy FORWARD", ""},
		"mended":    {t.Context(), "echo -P FORWARD DROP; echo -A FORWARD -i sw123456-+ -j ACCEPT", "", ""},
		"locked":    {t.Context(), "echo Another app holds the lock >&2; exit 4", "", "Another app holds the lock"},
		"not there": {t.Context(), "", "", "no such file"},
		"cancelled": {cancelled, "echo -P FORWARD DROP", "", "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(t.TempDir(), "iptables-legacy")
			if c.script != "" {
				if err := os.WriteFile(program, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			l, err := legacyBlocks(c.ctx, program, "sw123456-")
			var got []string
			for _, b := range l {
				got = append(got, b.Chain)
			}
			if strings.Join(got, ", ") != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q %v", got, err)
			}
		})
	}
}

var _ engine.Networks = (*Engine)(nil)
