package source

import (
	"os"
	"strings"
	"testing"
)

// TestNamesTooLong checks out a commit that no file system can hold, and what
// comes after it.
func TestNamesTooLong(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 300)
	for _, path := range []string{long, long + "/x", "dir/" + long + "/x/y"} {
		for _, depth := range []int{0, 1} {
			s := newShop(t)
			s.c.write("a.txt", "a\n")
			first := s.push("first")
			s.checkout(first, depth)
			blob := strings.TrimSpace(s.c.git("rev-parse", "HEAD:a.txt"))
			s.c.git("update-index", "--add", "--cacheinfo", "100644,"+blob+","+path)
			tree := strings.TrimSpace(s.c.git("write-tree"))
			bad := strings.TrimSpace(s.c.git("commit-tree", "-p", first, "-m", "bad", tree))
			s.c.git("push", "-q", "-f", s.at("web"), bad+":main")
			err := s.sources.Checkout(t.Context(), s.p.ID, CheckoutSpec{Revision: bad, Branch: "main", Depth: depth, Dir: s.dir, Key: "tree", Out: func(string) {}})
			if err == nil || !strings.Contains(err.Error(), "name too long") {
				t.Fatalf("checked out: %v", err)
			}
			s.c.git("read-tree", first)
			s.c.write("b.txt", "b\n")
			s.checkout(s.push("second"), depth)
			if _, err := os.Stat(s.dir + "/b.txt"); err != nil {
				t.Error(err)
			}
		}
	}
}
