package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// writeRules writes the table of this instance anew, in one transaction:
//
//	input    from our bridges: answers, and DNS to the bridge's own address;
//	         nothing else reaches the host
//	forward  answers; within a project's bridge; out of a bridge to anywhere but
//	         our networks, link-local and multicast addresses
//	post     what leaves our networks gets the host's address
func (n *network) writeRules() error {
	n.rulesMu.Lock()
	defer n.rulesMu.Unlock()
	c, err := nftables.New()
	if err != nil {
		return err
	}
	n.mu.Lock()
	var bases [][]byte
	for _, b := range n.plan.Bases {
		bases = append(bases, []byte{10, b})
	}
	var all, joined []nftables.SetElement
	for name := range n.bridges {
		ifn := ifname(n.bridgeName(n.plan.Numbers[name]))
		all = append(all, nftables.SetElement{Key: ifn})
		if name != "" { // runs and builds do not reach each other
			joined = append(joined, nftables.SetElement{Key: append(bytes.Clone(ifn), ifn...)})
		}
	}
	n.mu.Unlock()

	r := &rules{c: c, t: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "slipway_" + n.e.inst}}
	c.AddTable(r.t)
	c.DelTable(r.t)
	c.AddTable(r.t)
	r.bridges = &nftables.Set{Table: r.t, Name: "bridges", KeyType: nftables.TypeIFName}
	if err := c.AddSet(r.bridges, all); err != nil {
		return err
	}
	pairs := &nftables.Set{Table: r.t, Name: "joined", KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName), Concatenation: true}
	if err := c.AddSet(pairs, joined); err != nil {
		return err
	}
	r.input()
	r.forward(pairs)
	post := r.chain("post", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, b := range bases {
		r.rule(post, ipMatch(ipSource, expr.CmpOpEq, b), r.ours(expr.MetaKeyOIFNAME, true), list(&expr.Masq{}))
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// rules collects the rules of one table.
type rules struct {
	c       *nftables.Conn
	t       *nftables.Table
	bridges *nftables.Set
}

func (r *rules) input() {
	in := r.chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	from := r.ours(expr.MetaKeyIIFNAME, false)
	r.rule(in, from, established(), verdict(expr.VerdictAccept))
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		r.rule(in, from, list(
			// the address must be one of the bridge itself
			&expr.Fib{Register: 1, FlagDADDR: true, FlagIIF: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(53)},
		), verdict(expr.VerdictAccept))
	}
	r.rule(in, from, verdict(expr.VerdictDrop))
}

func (r *rules) forward(joined *nftables.Set) {
	fwd := r.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	from, to := r.ours(expr.MetaKeyIIFNAME, false), r.ours(expr.MetaKeyOIFNAME, false)
	r.rule(fwd, from, established(), verdict(expr.VerdictAccept))
	r.rule(fwd, to, established(), verdict(expr.VerdictAccept))
	// Frames within a bridge come here where the host filters bridges too.
	r.rule(fwd, list(
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 2},
		&expr.Lookup{SourceRegister: 1, SetName: joined.Name, SetID: joined.ID},
	), verdict(expr.VerdictAccept))
	// From other networks of ours, and from neighbours of the host.
	r.rule(fwd, to, verdict(expr.VerdictDrop))
	r.rule(fwd, from, ipMatch(ipTarget, expr.CmpOpEq, []byte{169, 254}), verdict(expr.VerdictDrop))
	r.rule(fwd, from, ipMatch(ipTarget, expr.CmpOpEq, []byte{127}), verdict(expr.VerdictDrop))
	r.rule(fwd, from, ipMatch(ipTarget, expr.CmpOpGte, []byte{224}), verdict(expr.VerdictDrop))
	// An address that is not one of its bridge's network.
	r.rule(fwd, from, list(
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 0, 0, 0}},
	), verdict(expr.VerdictDrop))
}

func (r *rules) chain(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	return r.c.AddChain(&nftables.Chain{Table: r.t, Name: name, Type: typ, Hooknum: hook, Priority: prio})
}

func (r *rules) rule(ch *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	r.c.AddRule(&nftables.Rule{Table: r.t, Chain: ch, Exprs: all})
}

// ours matches what comes in by (or goes out by) one of our bridges, or by
// anything else.
func (r *rules) ours(key expr.MetaKey, invert bool) []expr.Any {
	return list(&expr.Meta{Key: key, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: r.bridges.Name, SetID: r.bridges.ID, Invert: invert})
}

func list(e ...expr.Any) []expr.Any { return e }

func verdict(k expr.VerdictKind) []expr.Any { return list(&expr.Verdict{Kind: k}) }

func established() []expr.Any {
	return list(&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: binaryutil.NativeEndian.PutUint32(0),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0, 0, 0}})
}

// Where the addresses are in the header.
const (
	ipSource = 12
	ipTarget = 16
)

// ipMatch compares the first bytes of an address.
func ipMatch(off uint32, op expr.CmpOp, b []byte) []expr.Any {
	return list(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: off, Len: uint32(len(b))},
		&expr.Cmp{Op: op, Register: 1, Data: b})
}

// ifname is the name of a link as the kernel compares it.
func ifname(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

// dropRules removes the table of this instance.
func dropRules(inst string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "slipway_" + inst}
	c.AddTable(t) // so that removing it is never an error
	c.DelTable(t)
	return c.Flush()
}

// Block is a chain of the host's own firewall that stops what our containers
// send or get: an accept in our table does not overrule it.
type Block struct {
	Chain string   // "ip filter FORWARD"
	What  string   // what does not work because of it
	Mend  []string // commands that make it work
}

// Blocks finds them for the engine whose Options.Dir is dir. It needs root. An
// error means that there may be more than are given.
func Blocks(ctx context.Context, dir string) ([]Block, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	prefix := "sw" + instance(dir)[:6] + "-"
	var l []Block
	for _, ch := range chains {
		if ch.Hooknum == nil || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop || strings.HasPrefix(ch.Table.Name, "slipway_") {
			continue
		}
		family := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"}[ch.Table.Family]
		if family == "" {
			continue
		}
		name := strings.Join([]string{family, ch.Table.Name, ch.Name}, " ")
		b := Block{Chain: name}
		switch *ch.Hooknum {
		case *nftables.ChainHookForward:
			b.What = "containers have no way out"
			b.Mend = []string{
				fmt.Sprintf("nft insert rule %s iifname %q accept", name, prefix+"*"),
				fmt.Sprintf("nft insert rule %s oifname %q ct state established,related accept", name, prefix+"*"),
			}
		case *nftables.ChainHookInput:
			b.What = "containers cannot resolve names"
			b.Mend = []string{
				fmt.Sprintf("nft insert rule %s iifname %q udp dport 53 accept", name, prefix+"*"),
				fmt.Sprintf("nft insert rule %s iifname %q tcp dport 53 accept", name, prefix+"*"),
			}
		default:
			continue
		}
		mended, err := mentions(c, ch, prefix)
		if err != nil {
			return nil, err
		}
		if !mended {
			l = append(l, b)
		}
	}
	tables, err := os.ReadFile("/proc/net/ip_tables_names")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return l, err
	}
	if slices.Contains(strings.Fields(string(tables)), "filter") {
		older, err := legacyBlocks(ctx, "iptables-legacy", prefix)
		return append(l, older...), err
	}
	return l, nil
}

// legacyBlocks looks at the tables of before nftables, which only their own
// program can read.
func legacyBlocks(ctx context.Context, program, prefix string) (l []Block, err error) {
	out, err := exec.CommandContext(ctx, program, "-w", "2", "-S").Output()
	if err != nil {
		var x *exec.ExitError
		if errors.As(err, &x) && ctx.Err() == nil {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(x.Stderr))
		}
		return nil, fmt.Errorf("the host has tables of iptables-legacy, and they cannot be read: %w", err)
	}
	if strings.Contains(string(out), " "+prefix+"+ ") {
		return nil, nil
	}
	for line := range strings.Lines(string(out)) {
		switch strings.TrimSpace(line) {
		case "-P FORWARD DROP":
			l = append(l, Block{"iptables-legacy FORWARD", "containers have no way out", []string{
				"iptables-legacy -I FORWARD -i " + prefix + "+ -j ACCEPT",
				"iptables-legacy -I FORWARD -o " + prefix + "+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
			}})
		case "-P INPUT DROP":
			l = append(l, Block{"iptables-legacy INPUT", "containers cannot resolve names", []string{
				"iptables-legacy -I INPUT -i " + prefix + "+ -p udp --dport 53 -j ACCEPT",
				"iptables-legacy -I INPUT -i " + prefix + "+ -p tcp --dport 53 -j ACCEPT",
			}})
		}
	}
	return l, nil
}

// mentions tells whether a chain has a rule for links whose name begins with
// prefix.
func mentions(c *nftables.Conn, ch *nftables.Chain, prefix string) (bool, error) {
	rules, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	for _, r := range rules {
		for _, x := range r.Exprs {
			if cmp, ok := x.(*expr.Cmp); ok && bytes.HasPrefix(cmp.Data, []byte(prefix)) {
				return true, nil
			}
		}
	}
	return false, nil
}
