"""Every file is read and written here: images, JSON, CSV, bytes. All writes are atomic.

=============  ==========================================================================
`images`       `read_image`, `read_header`, `write_image`: NIfTI, NRRD, MetaImage as RAS+ arrays
`nifti`        the fast, checking path for NIfTI-1 and NIfTI-2
`dicom`        series of DICOM slices, sorted and checked
`itk`          NRRD and MetaImage through SimpleITK
`documents`    JSON, with faults told by line
`tables`       CSV, with formula cells made harmless
`points`       landmarks: 3D Slicer's Markups and fcsv, CSV, JSON
`atomic`       bytes under a temporary name, flushed, renamed
`lock`         one writer a folder
=============  ==========================================================================
"""
