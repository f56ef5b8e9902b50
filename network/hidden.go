package network

import (
	"reflect"
	"slices"

	"github.com/converge-agents/converge/config"
)

// hidden returns what [hiddenOf] does of this network. It is for those who build it.
func (n *Network) hidden() []string {
	if n.kept == nil {
		n.kept = hiddenOf(n.config, n.dir)
	}
	return n.kept
}

// hiddenOf returns the files and folders that no param of a command leads to: the folder of state, that of receipts, since
// their key may be there, and the files of keys, passwords and the like, wherever they are.
func hiddenOf(c *config.Config, state string) []string {
	all := append(secretFiles(reflect.ValueOf(*c)), state, c.Audit.Dir)
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(path string) bool { return path == "" })
}

// secretFiles returns the files with secrets that a part of a configuration names, and those within it. "" may be among
// them.
func secretFiles(part reflect.Value) (all []string) {
	if !part.CanInterface() { // where it was read, and the like
		return nil
	}
	switch is := part.Interface().(type) {
	case config.Secret:
		return []string{is.File}
	case config.Agent:
		all = []string{is.Key}
	case config.NATS:
		all = []string{is.Credentials, is.NKey}
	case config.ClientTLS:
		all = []string{is.Key}
	case config.ServerTLS:
		all = []string{is.Key}
	}
	switch part.Kind() {
	case reflect.Struct:
		for i := range part.NumField() {
			all = append(all, secretFiles(part.Field(i))...)
		}
	case reflect.Slice:
		for i := range part.Len() {
			all = append(all, secretFiles(part.Index(i))...)
		}
	case reflect.Map:
		for _, key := range part.MapKeys() {
			all = append(all, secretFiles(part.MapIndex(key))...)
		}
	}
	return all
}
