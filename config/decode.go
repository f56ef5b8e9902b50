package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
)

// decoder fills Go values from nodes, strictly, and remembers which node each key had.
type decoder struct {
	problems *problems
	nodes    map[string]*node // by key, as far as they were given
}

// decode reads n into v, which is addressable.
func (d *decoder) decode(n *node, v reflect.Value, key string) {
	d.nodes[key] = n
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.scalar(n, text, key)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, key)
	case reflect.Map:
		d.mapping(n, v, key)
	case reflect.Slice:
		d.slice(n, v, key)
	case reflect.Interface:
		d.any(n, v, key)
	case reflect.String:
		if d.is(n, isText, "a string", key) {
			v.SetString(n.text)
		}
	case reflect.Bool:
		if d.is(n, isBool, "true or false", key) {
			v.SetBool(n.text == "true")
		}
	case reflect.Int:
		d.integer(n, v, key)
	default:
		panic("config: no way to read a " + v.Type().String())
	}
}

func (d *decoder) structure(n *node, v reflect.Value, key string) {
	if _, isSecret := v.Addr().Interface().(interface{ isSecret() }); isSecret && n.kind != isTable { // not to be repeated
		d.problems.add(n.place, key, &Error{Msg: "a secret does not stand in a configuration", Hint: "say where it is: {file: PATH} or {env: VARIABLE}"})
		return
	}
	if !d.is(n, isTable, "a map", key) {
		return
	}
	if t, ok := v.Addr().Interface().(interface{ setDefaults() }); ok {
		t.setDefaults()
	}
	for _, f := range n.table.fields {
		at, known := fieldOf(v.Type(), f.key)
		if !known {
			d.problems.add(f.place, child(key, f.key), &Error{Msg: "unknown key", Hint: suggest(f.key, "keys", keysOf(v.Type()))})
			continue
		}
		if f.value.kind != isNull { // key: without a value is as good as none
			d.decode(f.value, v.FieldByIndex(at), child(key, f.key))
		}
	}
}

func (d *decoder) mapping(n *node, v reflect.Value, key string) {
	if !d.is(n, isTable, "a map", key) {
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.table.fields)))
	for _, f := range n.table.fields {
		value := reflect.New(v.Type().Elem()).Elem()
		d.decode(f.value, value, child(key, f.key))
		v.SetMapIndex(reflect.ValueOf(f.key), value)
	}
}

func (d *decoder) slice(n *node, v reflect.Value, key string) {
	if !d.is(n, isList, "a list", key) {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
	for i, element := range n.items {
		d.decode(element, v.Index(i), item(key, i))
	}
}

// any reads what may have any type: the parameters of tasks.
func (d *decoder) any(n *node, v reflect.Value, key string) {
	switch n.kind {
	case isTable:
		var m map[string]any
		d.mapping(n, reflect.ValueOf(&m).Elem(), key)
		v.Set(reflect.ValueOf(m))
	case isList:
		var l []any
		d.slice(n, reflect.ValueOf(&l).Elem(), key)
		v.Set(reflect.ValueOf(l))
	case isNull:
	default:
		value, err := n.plain()
		if err != nil {
			d.problems.add(n.place, key, err)
			return
		}
		v.Set(reflect.ValueOf(value))
	}
}

func (d *decoder) integer(n *node, v reflect.Value, key string) {
	if !d.is(n, isInt, "a whole number", key) {
		return
	}
	i, err := n.integer()
	if err != nil || v.OverflowInt(i) {
		d.mismatch(n, "a whole number", key)
		return
	}
	v.SetInt(i)
}

func (d *decoder) scalar(n *node, v encoding.TextUnmarshaler, key string) {
	if n.kind == isNull || n.kind == isList || n.kind == isTable {
		d.mismatch(n, "a single value", key)
		return
	}
	if err := v.UnmarshalText([]byte(n.scalarText())); err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			e = &Error{Msg: err.Error()}
		}
		d.problems.add(n.place, key, e)
	}
}

// is reports whether n is of that kind or its text may stand for it, and tells the problem otherwise.
func (d *decoder) is(n *node, kind nodeKind, want, key string) bool {
	if n.kind == kind {
		return true
	}
	if n.loose && (kind == isInt || kind == isBool && (n.text == "true" || n.text == "false")) {
		return true
	}
	d.mismatch(n, want, key)
	return false
}

func (d *decoder) mismatch(n *node, want, key string) {
	e := &Error{Msg: fmt.Sprintf("want %s, not %s", want, n.describe())}
	if want == "a string" {
		e.Hint = n.quoted()
	}
	if want == "a list" && n.kind == isText {
		e.Hint = "write it in brackets: [" + n.describe() + "]"
	}
	d.problems.add(n.place, key, e)
}

// quoted is the hint for a string that was written without its quotes: a number, or {name}, which is a
// map in YAML.
func (n *node) quoted() string {
	text := n.text
	if n.kind == isTable && len(n.table.fields) == 1 && n.table.fields[0].value.kind == isNull {
		text = "{" + n.table.fields[0].key + "}"
	}
	if text == "" {
		return ""
	}
	return "write it in quotes: " + strconv.Quote(clip(text))
}

// keyed is a field of a struct that has a key.
type keyed struct {
	key   string
	index []int // see [reflect.Value.FieldByIndex]
	kind  reflect.Type
}

// keyedFields returns the fields of struct type t that have keys, in their order; those of embedded
// structs are t's own.
func keyedFields(t reflect.Type) []keyed {
	var fields []keyed
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			for _, inner := range keyedFields(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				fields = append(fields, inner)
			}
		} else if key, ok := f.Tag.Lookup("key"); ok {
			fields = append(fields, keyed{key, []int{i}, f.Type})
		}
	}
	return fields
}

// fieldOf returns the index of the field of struct type t that has the key.
func fieldOf(t reflect.Type, key string) ([]int, bool) {
	for _, f := range keyedFields(t) {
		if f.key == key {
			return f.index, true
		}
	}
	return nil, false
}

// keysOf returns the keys of struct type t in the order of its fields.
func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range keyedFields(t) {
		keys = append(keys, f.key)
	}
	return keys
}

// scalarKeys returns the keys below prefix that hold a single value and lie in no list or map: those
// that variables and flags can set.
func scalarKeys(t reflect.Type, prefix string) []string {
	var keys []string
	for _, f := range keyedFields(t) {
		switch f.kind.Kind() {
		case reflect.Map, reflect.Slice:
		case reflect.Struct:
			keys = append(keys, scalarKeys(f.kind, child(prefix, f.key))...)
		default:
			keys = append(keys, child(prefix, f.key))
		}
	}
	return keys
}
