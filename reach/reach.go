// Package reach says which addresses the server may speak to when somebody else
// has said where to: with the rights of its place in the network it reaches more
// than who asks does.
package reach

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/containerd/errdefs"
)

// Inside tells whether an address is not of the open internet.
func Inside(ip netip.Addr) bool {
	ip = ip.Unmap()
	if ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || !ip.IsGlobalUnicast() {
		return true
	}
	for _, p := range reserved {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// Shared, protocol, test and reserved ranges, and those that carry an IPv4
// address inside.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"),
}

// Outside is the Control of a net.Dialer that speaks to no address inside,
// whatever name it was looked up by.
func Outside(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return err
	}
	if Inside(ip) {
		return fmt.Errorf("%s is a private address, which this server does not allow: %w", ip.WithZone(""), errdefs.ErrFailedPrecondition)
	}
	return nil
}
