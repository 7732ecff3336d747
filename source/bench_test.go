package source

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// BenchmarkCheckout measures what stands before every action: the same commit
// again, and back and forth between two that differ in one file.
func BenchmarkCheckout(b *testing.B) {
	for _, files := range []int{10, 1000, 6000} {
		dir := b.TempDir()
		d, err := db.Open(context.Background(), filepath.Join(dir, "db"))
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = d.Close() }()
		a, projects := access.New(d), project.NewProjects(d)
		if _, err := a.Bootstrap(b.Context(), "ann", func(tx *db.Tx, u access.User) error {
			_, err := project.BootstrapWorkspace(tx, "acme", u)
			return err
		}, func(string) error { return nil }); err != nil {
			b.Fatal(err)
		}
		s, err := New(Config{Dir: filepath.Join(dir, "git")}, d, projects, nil)
		if err != nil {
			b.Fatal(err)
		}
		const id = "7b6d7f9a-0000-4000-8000-000000000000"
		repo, err := s.own(id)
		if err != nil {
			b.Fatal(err)
		}
		work := filepath.Join(dir, "work")
		var hash [2]string
		for i := range 2 {
			for n := range files {
				p := filepath.Join(work, fmt.Sprintf("d%d/e%d/f%d", n%7, n%31, n))
				_ = os.MkdirAll(filepath.Dir(p), 0o755)
				if i == 0 || n == 5 {
					_ = os.WriteFile(p, []byte(fmt.Sprint(i, n)), 0o644)
				}
			}
			script := "git init -q; git add .; git commit -qm x; git push -q " + repo + " HEAD:refs/heads/main; git rev-parse HEAD"
			cmd := exec.Command("sh", "-c", script)
			cmd.Dir, cmd.Env = work, gitEnv()
			out, err := cmd.CombinedOutput()
			if err != nil {
				b.Fatal(err, string(out))
			}
			hash[i] = string(out[len(out)-41 : len(out)-1])
		}
		for _, depth := range []int{0, 1} {
			tree := filepath.Join(dir, fmt.Sprint("tree", depth))
			_ = os.Mkdir(tree, 0o755)
			at := func(i int) {
				spec := CheckoutSpec{Revision: hash[i], Branch: "main", Depth: depth, Dir: tree, Key: fmt.Sprint("k", depth)}
				if err := s.Checkout(b.Context(), id, spec); err != nil {
					b.Fatal(err)
				}
			}
			b.Run(fmt.Sprintf("files=%d/depth=%d/first", files, depth), func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					_ = os.RemoveAll(tree)
					_ = os.Mkdir(tree, 0o755)
					b.StartTimer()
					at(0)
				}
			})
			b.Run(fmt.Sprintf("files=%d/depth=%d/same", files, depth), func(b *testing.B) {
				for b.Loop() {
					at(0)
				}
			})
			b.Run(fmt.Sprintf("files=%d/depth=%d/next", files, depth), func(b *testing.B) {
				for i := 1; b.Loop(); i++ {
					at(i % 2)
				}
			})
		}
	}
}
